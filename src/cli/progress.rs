//! How far a run has come, and how long it will still take.
//!
//! Work is counted in floating-point operations. What a stage takes for one of them is known once it has done a
//! step; until then, the stage before it says.

use std::time::{Duration, Instant};

use crate::pipeline::{Outline, StageName};

/// A run in progress.
pub(super) struct Progress {
    /// Pictures of the run, and those that are done.
    total: usize,
    done: usize,
    /// The batch that is being made.
    batch: Outline,
    /// Which of its stages runs, and the steps that it has done.
    stage: usize,
    step: usize,
    since: Instant,
    /// Seconds for an operation, by stage, as measured last; and whose was measured last of all.
    rates: Vec<(StageName, f64)>,
}

impl Progress {
    /// A run that makes `total` pictures.
    pub(super) fn new(total: usize) -> Self {
        let batch = Outline { images: 0, stages: Vec::new() };
        Self { total, done: 0, batch, stage: 0, step: 0, since: Instant::now(), rates: Vec::new() }
    }

    /// A batch begins; the one before it is done.
    pub(super) fn batch(&mut self, outline: &Outline) {
        self.done += self.batch.images;
        self.batch = outline.clone();
        (self.stage, self.step, self.since) = (0, 0, Instant::now());
    }

    /// A stage begins.
    pub(super) fn begin(&mut self, name: StageName) {
        // Stage C may make two passes.
        let from = self.stage + usize::from(self.step > 0);
        let later = self.batch.stages.iter().enumerate().skip(from).find(|(_, (stage, ..))| *stage == name);
        self.stage = later.map_or(self.stage, |(stage, _)| stage);
        (self.step, self.since) = (0, Instant::now());
    }

    /// The stage has done so many of its steps, at this time.
    pub(super) fn step(&mut self, step: usize, now: Instant) {
        self.step = step;
        let Some(&(name, steps, flops)) = self.batch.stages.get(self.stage) else { return };
        let work = flops as f64 * step as f64 / steps.max(1) as f64;
        if work > 0.0 {
            self.rates.retain(|(known, _)| *known != name);
            self.rates.push((name, (now - self.since).as_secs_f64() / work));
        }
    }

    /// The part of the run's work that is done, 0 to 1.
    pub(super) fn fraction(&self) -> f64 {
        let [done, left] = self.work(|_, work| work);
        if done + left > 0.0 { done / (done + left) } else { 0.0 }
    }

    /// The time that is left, if anything was measured yet.
    pub(super) fn left(&self) -> Option<Duration> {
        let &(_, last) = self.rates.last()?;
        let rate = |name| self.rates.iter().find(|(known, _)| *known == name).map_or(last, |(_, rate)| *rate);
        let [_, left] = self.work(|name, work| work * rate(name));
        Some(Duration::from_secs_f64(left.min(1e9)))
    }

    /// What is done and what is left, weighed. Batches that are still to come are like this one.
    fn work(&self, weigh: impl Fn(StageName, f64) -> f64) -> [f64; 2] {
        let [mut done, mut left, mut whole] = [0.0; 3];
        for (i, &(name, steps, flops)) in self.batch.stages.iter().enumerate() {
            let work = weigh(name, flops as f64);
            let part = match i.cmp(&self.stage) {
                std::cmp::Ordering::Less => 1.0,
                std::cmp::Ordering::Equal => self.step as f64 / steps.max(1) as f64,
                std::cmp::Ordering::Greater => 0.0,
            };
            whole += work;
            done += work * part;
            left += work * (1.0 - part);
        }
        let images = self.batch.images.max(1) as f64;
        let later = self.total.saturating_sub(self.done + self.batch.images) as f64;
        [done + whole * self.done as f64 / images, left + whole * later / images]
    }

    /// One line that says all of it.
    pub(super) fn line(&self) -> String {
        let Some(&(name, steps, _)) = self.batch.stages.get(self.stage) else { return String::new() };
        let pictures = match (self.total, self.batch.images) {
            (0 | 1, _) => String::new(),
            (total, images) => format!("picture {} to {} of {total}, ", self.done + 1, self.done + images),
        };
        let a_step = match self.rates.last() {
            Some((known, _)) if *known == name && self.step > 0 => {
                let seconds = self.rates.last().map_or(0.0, |(_, rate)| rate * self.flops() / steps as f64);
                format!(", {seconds:.2} s a step")
            }
            _ => String::new(),
        };
        let left = self.left().map_or(String::new(), |left| format!(", {} left", human(left)));
        format!("{pictures}{name} {}/{steps}{a_step}{left}", self.step)
    }

    fn flops(&self) -> f64 {
        self.batch.stages.get(self.stage).map_or(0.0, |(_, _, flops)| *flops as f64)
    }
}

/// `1 h 02 min`, `3 min 20 s`, `7 s`.
fn human(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        s => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StageName::{StageA, StageB, StageC};

    /// Four pictures in two batches, each 10 steps of 100 s and then 5 of 40 s, on a device that needs twice as long
    /// for an operation of Stage B.
    #[test]
    fn time_left_is_true_in_every_stage() {
        let outline = Outline { images: 2, stages: vec![(StageC, 10, 1000), (StageB, 5, 100), (StageA, 1, 100)] };
        let mut run = Progress::new(4);
        assert_eq!((run.fraction(), run.left()), (0.0, None));
        let seconds = |run: &Progress| run.left().unwrap().as_secs();
        run.batch(&outline);
        run.begin(StageC);
        let start = run.since;
        run.step(5, start + Duration::from_secs(500));
        // Nothing is known of the others yet: 1 s for each operation.
        assert_eq!(seconds(&run), 500 + 200 + 1200);
        assert!((run.fraction() - 500.0 / 2400.0).abs() < 1e-9);
        assert_eq!(run.line(), "picture 1 to 2 of 4, Stage C 5/10, 100.00 s a step, 31 min 40 s left");
        run.step(10, start + Duration::from_secs(1000));
        run.begin(StageB);
        assert!(!run.line().contains("a step"), "{}", run.line());
        run.step(1, run.since + Duration::from_secs(40));
        assert_eq!(seconds(&run), 160 + 200 + 1000 + 200 + 200);
        run.step(5, run.since + Duration::from_secs(200));
        run.begin(StageA);
        run.step(1, run.since + Duration::from_secs(50));
        assert_eq!(seconds(&run), 1000 + 200 + 50);
        assert!((run.fraction() - 0.5).abs() < 1e-9);

        run.batch(&outline);
        run.begin(StageC);
        assert_eq!(seconds(&run), 1000 + 200 + 50);
        assert!(run.line().starts_with("picture 3 to 4 of 4, Stage C 0/10, 20 min 50 s left"), "{}", run.line());
        run.begin(StageA);
        run.step(1, run.since + Duration::from_secs(50));
        assert_eq!((seconds(&run), run.fraction()), (0, 1.0));
    }

    #[test]
    fn a_stage_may_run_twice() {
        let mut run = Progress::new(1);
        run.batch(&Outline { images: 1, stages: vec![(StageC, 4, 100), (StageC, 2, 300), (StageA, 1, 100)] });
        let step = |run: &mut Progress, step| run.step(step, run.since + Duration::from_secs(1));
        run.begin(StageC);
        step(&mut run, 4);
        assert!((run.fraction() - 0.2).abs() < 1e-9);
        run.begin(StageC);
        assert!((run.fraction() - 0.2).abs() < 1e-9 && run.line().starts_with("Stage C 0/2"), "{}", run.line());
        step(&mut run, 2);
        assert!((run.fraction() - 0.8).abs() < 1e-9);
        run.begin(StageA);
        step(&mut run, 1);
        assert_eq!(run.fraction(), 1.0);
    }

    #[test]
    fn times() {
        let human = |s| human(Duration::from_secs(s));
        assert_eq!([human(7), human(200), human(3723)], ["7 s", "3 min 20 s", "1 h 02 min"]);
    }
}
