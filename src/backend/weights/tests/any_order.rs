//! Programs that are compiled, run and dropped in any order.
#![cfg(test)]

use proptest::prelude::*;

use super::*;

/// What may be done with a device.
#[derive(Debug, Clone)]
enum Call {
    Compile { plan: usize, arena: u64, stores_bf16: bool },
    Run { program: usize, segment: usize },
    UploadAhead { program: usize },
    Drop { program: usize },
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call = prop_oneof![
        3 => (0..4usize, 1..6u64, any::<bool>()).prop_map(|(plan, arena, stores_bf16)| Call::Compile { plan, arena, stores_bf16 }),
        8 => (0..8usize, 0..4usize).prop_map(|(program, segment)| Call::Run { program, segment }),
        2 => (0..8usize).prop_map(|program| Call::UploadAhead { program }),
        2 => (0..8usize).prop_map(|program| Call::Drop { program }),
    ];
    prop::collection::vec(call, 1..60)
}

/// Plans of up to four segments that read up to three stacks of up to three of eight tensors.
fn plans() -> impl Strategy<Value = Vec<Vec<Vec<Vec<usize>>>>> {
    let stack = prop::collection::vec(0..8usize, 1..4);
    let segment = prop::collection::vec(stack, 1..4);
    prop::collection::vec(prop::collection::vec(segment, 1..5), 4)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn programs_read_their_weights_whatever_others_do(calls in calls(), plans in plans(), capacity in 20..120u64) {
        let tensors: Vec<Weight> = (0..8).map(|seed| tensor(seed, 1 + seed % 5)).collect();
        let stack = |stack: &Vec<usize>| {
            Weight::stack(&stack.iter().map(|&t| tensors[t].clone()).collect::<Vec<_>>())
        };
        let segments = |plan: &Vec<Vec<Vec<usize>>>| -> Vec<Vec<Weight>> {
            plan.iter().map(|segment| segment.iter().map(stack).collect()).collect()
        };
        // The first has no loop, the second one of one segment, and so on.
        let plan_of = |(looped, p): (usize, &Vec<Vec<Vec<usize>>>)| plan_with_loop(looped.min(p.len()), &segments(p));
        let plans: Vec<Arc<Plan>> = plans.iter().enumerate().map(plan_of).collect();
        let store = Fake::store(capacity * ROW);
        let mut programs: Vec<Program> = Vec::new();
        for call in calls {
            match call {
                Call::Compile { plan, arena, stores_bf16 } => {
                    match Program::compile(&store, &plans[plan], arena * ROW, stores_bf16) {
                        Ok(program) => programs.push(program),
                        Err(error) => {
                            prop_assert!(matches!(error, Error::DoesNotFit { .. }), "{}", error);
                            let refused = Weights::new(&store, plans[plan].clone(), stores_bf16);
                            let others = programs.iter().map(|p| least(&p.plan, &p.weights));
                            let least = others.max().unwrap_or(0).max(least(&plans[plan], &refused));
                            let arenas: u64 = programs.iter().map(|p| p.arena_bytes).sum();
                            prop_assert!(arenas + arena * ROW + least > capacity * ROW, "it would have fitted");
                        }
                    }
                }
                Call::Run { program, segment } if !programs.is_empty() => {
                    let count = programs.len();
                    let program = &mut programs[program % count];
                    let segment = segment % program.plan.segments.len();
                    program.run(segment).expect("what is compiled can run");
                }
                Call::UploadAhead { program } if !programs.is_empty() => {
                    programs[program % programs.len()].weights.upload_ahead().unwrap();
                }
                Call::Drop { program } if !programs.is_empty() => drop(programs.remove(program % programs.len())),
                _ => {}
            }
            let arenas: u64 = programs.iter().map(|p| p.arena_bytes).sum();
            let taken = store.memory.taken.load(Relaxed);
            prop_assert_eq!(store.lock().resident_bytes() + arenas, taken, "bytes accounted are bytes allocated");
            prop_assert_eq!(store.free_bytes().unwrap(), capacity * ROW - arenas);
        }
        drop(programs);
        prop_assert_eq!(store.memory.taken.load(Relaxed), store.lock().resident_bytes());
        // Once the tensors are gone too, nothing is left.
        drop((plans, tensors));
        Program::compile(&store, &plan(&[]), ROW, false).unwrap();
        let state = store.lock();
        prop_assert!(state.is_empty());
    }
}
