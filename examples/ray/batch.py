"""Many pictures on many machines, with Ray Data: one `cascade-rt serve` for each actor.

    pip install 'ray[data]==2.60.0'
    python batch.py prompts.jsonl pictures/ --actors 4 --gpus 1 -- -m stable-cascade --dtype bf16

A line of prompts.jsonl is the body of a request, like {"prompt": "a fox", "seed": 7}; one without a seed gets its number. Pictures that are there
already are not made again, so the same command goes on after anything was interrupted. Actors and servers may be killed.
"""

import argparse, json, os, sys

import ray

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cascade_client import Server, name_of, write_once


class Painter:
    def __init__(self, program, flags, folder):
        self.server, self.folder, self.model = Server(program, flags), folder, " ".join(flags)

    def __call__(self, row):
        order = json.loads(row["order"])
        name = name_of(order, self.model)
        if not os.path.exists(os.path.join(self.folder, name)):
            write_once(self.folder, name, self.server.picture(order))
        return {"name": name}


def main():
    flags = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    ours = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("prompts")
    parser.add_argument("folder")
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--gpus", type=float, default=0, help="of each actor")
    parser.add_argument("--program", default="cascade-rt")
    args = parser.parse_args(ours)

    os.makedirs(args.folder, exist_ok=True)
    here = os.path.dirname(os.path.abspath(__file__))
    ray.init(runtime_env={"env_vars": {"PYTHONPATH": here}}, log_to_driver=False)
    # An actor that dies is started again, and what it was making is made again.
    context = ray.data.DataContext.get_current()
    context.max_errored_blocks, context.enable_progress_bars = 0, False
    lines = [line for line in open(args.prompts, encoding="utf-8") if line.strip()]
    orders = [{"order": json.dumps({"seed": i, **json.loads(line)})} for i, line in enumerate(lines)]
    done = ray.data.from_items(orders, override_num_blocks=max(1, len(orders) // 4)).map(
        Painter,
        fn_constructor_args=(args.program, flags, os.path.abspath(args.folder)),
        compute=ray.data.ActorPoolStrategy(size=args.actors),
        num_cpus=0.5,
        num_gpus=args.gpus,
        max_restarts=-1,
        max_task_retries=-1,
    )
    names = {row["name"] for row in done.iter_rows()}
    print(f"{len(names)} pictures in {args.folder}")


if __name__ == "__main__":
    main()
