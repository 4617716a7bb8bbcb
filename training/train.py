"""Trains the embedded demo model on pictures that it draws itself.

    python training/train.py train --out RUN_DIR [--preset cpu|cuda] [--minutes 100] [--phases a:40,b:15,...]
    python training/train.py eval --run RUN_DIR
    python training/train.py export --run RUN_DIR --out CHECKPOINT_DIR

The same `train` command started again goes on from the last checkpoint. See training/README.md.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F

from training import tokenizer as tok
from training.data import CELL_SIZES, PATCH_SIZES, SKIP, Batches, Tokens
from training.model import PRESETS, Config, Demo
from training.warm import start_from
from training.world import fonts
from training.world import questions as Q
from training.world.names import SHAPES

LATE = {"count": 3.0, "side": 4.0, "word": 1.5, "number": 2.0, "thing": 3.0, "exists": 0.9}
# recipes: (probability, name, pictures a batch and rank), see data.py; share: of the whole time;
# encoder_lr: of ViT and projector, relative to the LLM's; weights: how often each kind of question is asked;
# modes: how often each kind of scene is drawn.
PHASES = {
    "h": {  # new dense heads on an encoder that stays as it is
        "encoder_lr": 0.0,
        "share": 0.02,
        "qa_tokens": 112,
        "recipes": [(0.5, "w3ef", 64), (0.5, "w5ef", 28)],
    },
    "v": {
        "encoder_lr": 0.5,
        "share": 0.3,
        "qa_tokens": 112,
        "recipes": [(0.45, "w3e", 64), (0.4, "w5e", 28), (0.15, "w9e", 9)],
    },
    "l": {  # language, counting, sides: the decoder learns to read what the encoder sees
        "encoder_lr": 0.5,
        "share": 0.4,
        "qa_tokens": 320,
        "n_questions": 14,
        "recipes": [
            (0.42, "m5f", 7),
            (0.08, "w5f", 10),
            (0.08, "w9f", 5),
            (0.14, "w14f", 4),
            (0.06, "text", 8),
            (0.12, "w3e", 96),
            (0.10, "w5e", 40),
        ],
    },
    "m": {  # more sides and counts, whole tiles, pictures of several tiles
        "encoder_lr": 0.3,
        "share": 0.28,
        "qa_tokens": 320,
        "n_questions": 14,
        "weights": LATE,
        "recipes": [
            (0.44, "m5f", 7),
            (0.05, "w5f", 10),
            (0.05, "w9f", 5),
            (0.24, "w14f", 4),
            (0.05, "large", 2),
            (0.05, "text", 8),
            (0.06, "w3e", 96),
            (0.06, "w5e", 40),
        ],
    },
}


class Muon:
    """Momentum orthogonalised by Newton-Schulz for the matrices, AdamW for the rest.

    Jordan et al. 2024; scaled as in Moonlight (arXiv 2502.16982), so that one learning rate serves both.
    """

    def __init__(self, model: Demo, lr: float, scale: float, weight_decay: float = 0.02):
        self.lr, self.scale, self.weight_decay = lr, scale, weight_decay
        matrices, rest, names = [], [], {}
        for name, p in model.named_parameters():
            body = (".blocks." in name or name.startswith("proj.")) and p.ndim == 2
            (matrices if body else rest).append(p)
            names[p] = name.split(".")[0]
        self.groups: dict[tuple, list] = {}
        for p in matrices:
            self.groups.setdefault((*p.shape, names[p]), []).append(p)
        self.buffers = {
            shape: torch.zeros(len(ps), *shape[:2], device=ps[0].device) for shape, ps in self.groups.items()
        }
        # named_parameters() begins with the encoder's, so that the order is the same for any split
        split = [
            [p for p in rest if (names[p] in ("vit", "proj")) is of_encoder] for of_encoder in (True, False)
        ]
        groups = [{"params": ps, "factor": f} for ps, f in zip(split, (1.0, 1.0), strict=True)]
        self.encoder = 1.0
        self.adam = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)

    @torch.no_grad()
    def step(self, factor: float):
        lr = self.lr * factor
        for group in self.adam.param_groups:
            group["lr"] = lr * group["factor"]
        self.adam.step()
        for shape, ps in self.groups.items():
            if ps[0].grad is None:
                continue
            rate = lr * (self.encoder if shape[2] in ("vit", "proj") else 1.0)
            grad = torch.stack([p.grad for p in ps]).float()
            buf = self.buffers[shape]
            buf.mul_(0.95).add_(grad)
            x = grad.add_(buf, alpha=0.95).to(torch.bfloat16)
            flip = shape[0] > shape[1]
            x = x.mT if flip else x
            x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).to(x.dtype)
            for _ in range(5):
                a = x @ x.mT
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
            x = (x.mT if flip else x).float() * (self.scale * math.sqrt(max(shape[:2])))
            for p, u in zip(ps, x, strict=True):
                p.mul_(1 - rate * self.weight_decay).add_(u, alpha=-rate)

    def set_encoder(self, factor: float) -> None:
        """The learning rate of ViT and projector, relative to the LLM's."""
        self.encoder = self.adam.param_groups[0]["factor"] = factor

    def state(self):
        return {"buffers": list(self.buffers.values()), "adam": self.adam.state_dict()}

    def load(self, state):
        for mine, saved in zip(self.buffers.values(), state["buffers"], strict=True):
            mine.copy_(saved)
        self.adam.load_state_dict({**self.adam.state_dict(), "state": state["adam"]["state"]})


def weighted(n: int, none: float, device) -> torch.Tensor:
    w = torch.ones(n, device=device)
    w[0] = none
    return w


def aux_loss(model: Demo, features, z, batch, large: bool) -> tuple[torch.Tensor, dict]:
    heads, logs = model.aux, {}
    total = z.new_zeros((), dtype=torch.float32)
    y = heads.cell_norm(z)
    text_only = ("char", "next", "ord")
    for name in text_only if large else CELL_SIZES:
        target = batch["c_" + name].reshape(-1)
        logits = heads.cell[name](y).reshape(-1, CELL_SIZES[name]).float()
        if name in ("size", "region", "col", "row"):
            keep = target != SKIP
            if keep.any():
                total = total + 0.3 * F.cross_entropy(logits[keep], target[keep])
                logs[name] = (logits[keep].argmax(-1) == target[keep]).float().mean().item()
            continue
        loss = F.cross_entropy(
            logits, target, weight=weighted(CELL_SIZES[name], 0.8, z.device), ignore_index=SKIP
        )
        total = total + loss * (0.5 if name == "next" else 1.0)
        on = target > 0
        if on.any():
            logs[name] = (logits[on].argmax(-1) == target[on]).float().mean().item()
        if name == "kind":
            logs["false"] = (logits[~on].argmax(-1) > 0).float().sum().item() / max(1, on.sum().item())
            thing = target > len(SHAPES)
            if thing.any():
                logs["thing"] = (logits[thing].argmax(-1) == target[thing]).float().mean().item()
    if not large:
        f = heads.patch_norm(features)
        for name, weight in (("kind", 0.5), ("colour", 0.3), ("char", 0.5)):
            target = batch["p_" + name].reshape(-1)
            logits = heads.patch[name](f).reshape(-1, PATCH_SIZES[name]).float()
            total = total + weight * F.cross_entropy(
                logits, target, weight=weighted(PATCH_SIZES[name], 0.25, z.device), ignore_index=SKIP
            )
            if name == "kind" and (target > 0).any():
                logs["patch"] = (logits.argmax(-1) == target)[target > 0].float().mean().item()
        on = batch["p_kind"] > 0
        if on.any():
            off = heads.patch["off"](f)[on].float()
            total = total + 0.5 * F.smooth_l1_loss(off, batch["p_off"][on])
    return total, logs


def prefix_dtype(model: Demo) -> torch.dtype:
    return model.llm.embed.weight.dtype


def forward(model: Demo, batch, prefix):
    large = batch["recipe"] == "large"
    if batch["recipe"] == "text":
        z = torch.zeros(batch["ids"].shape[0], 0, model.config.llm_width, dtype=prefix_dtype(model))
        return answer_loss(model, z, batch, prefix, z.sum(), {})
    pixels = batch["pixels"].float().div_(127.5).sub_(1.0).to(prefix_dtype(model))
    frozen = large or batch["recipe"].endswith("f")
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        features = model.vit(pixels, batch["rows"], batch["cols"])
        z = model.proj(features)
    asks = "ids" in batch
    aux, logs = (z.sum() * 0, {}) if frozen and asks else aux_loss(model, features, z, batch, large)
    if not asks:
        return torch.zeros(()), aux, logs, {}
    return answer_loss(model, z.reshape(batch["ids"].shape[0], -1, z.shape[-1]), batch, prefix, aux, logs)


def answer_loss(model: Demo, image, batch, prefix, aux, logs):
    """image [B, N, n_embd] -> (loss of the answers, aux, logs, right and asked by kind)"""
    b = batch["ids"].shape[0]
    h = model.answer_states(image, batch["image_pos"], prefix, batch["ids"], batch["pos"], batch["seg"])
    on = batch["weight"] > 0
    logits = model.llm.head(h[on]).float()
    target, weight = batch["target"][on], batch["weight"][on]
    loss = (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
    with torch.no_grad():
        right = logits.argmax(-1) == target
        key = batch["key"][on]
        row = torch.arange(b, device=h.device)[:, None].expand_as(batch["seg"])[on]
        group = row * 24 + batch["seg"][on]
        good = torch.ones(b * 24, device=h.device).scatter_reduce(0, group[key], right[key].float(), "amin")
        kinds = batch["kinds"].reshape(-1)
        counts = {k: (good[kinds == i].sum().item(), int((kinds == i).sum())) for i, k in enumerate(Q.KINDS)}
    return loss, aux, logs, counts


def to(batch, device):
    return {k: v.to(device, non_blocking=True) if torch.is_tensor(v) else v for k, v in batch.items()}


class Ranks:
    """Mean gradients of several single-threaded processes, through shared memory.

    On a busy CPU this beats one process with several threads, which wait for each other after every operator.
    """

    def __init__(self, count: int, size: int):
        context = torch.multiprocessing.get_context("fork")
        self.count, self.barrier = count, context.Barrier(count)
        self.slots = torch.zeros(2, count, size).share_memory_()

    def mean(self, rank: int, step: int, flat: torch.Tensor) -> torch.Tensor:
        """Two sets of slots take turns, so that one barrier a step is enough."""
        slots = self.slots[step % 2, :, : flat.numel()]
        slots[rank].copy_(flat)
        self.barrier.wait(timeout=600)
        return slots.mean(0)


def parse_phases(text: str | None, minutes: float) -> list[tuple[str, float]]:
    if text:
        return [(p.split(":")[0], float(p.split(":")[1])) for p in text.split(",")]
    return [(name, minutes * p["share"]) for name, p in PHASES.items()]


def train(args) -> None:
    """Starts one process, or --ranks processes on a CPU."""
    if args.assets:
        fonts.use_assets(Path(args.assets))
    if args.ranks == 1:
        return train_rank(0, args, None)
    size = sum(
        p.numel()
        for p in Demo(
            Config(
                **(
                    PRESETS[args.preset or "cpu"].as_dict()
                    | {"vocab": tokenizer_of(Path(args.out)).get_vocab_size()}
                )
            ),
            CELL_SIZES,
            PATCH_SIZES,
        ).parameters()
    )
    torch.multiprocessing.start_processes(
        train_rank, (args, Ranks(args.ranks, size + 1)), nprocs=args.ranks, start_method="fork"
    )


def tokenizer_of(run: Path):
    from tokenizers import Tokenizer

    if not (run / "tokenizer.json").exists():
        tok.train(run / "tokenizer.json")
    return Tokenizer.from_file(str(run / "tokenizer.json"))


def train_rank(rank: int, args, ranks: Ranks | None) -> None:
    run = Path(args.out)
    run.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() and args.device != "cpu" else "cpu")
    preset = args.preset or ("cuda" if device.type == "cuda" else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(args.threads)
    tk = tokenizer_of(run)
    prefix = torch.tensor(Tokens(tk).prefix, device=device)
    assert len(prefix) == 3, "data.py counts on three tokens before the image"
    torch.manual_seed(args.seed)
    config = Config(**(PRESETS[preset].as_dict() | {"vocab": tk.get_vocab_size()}))
    model = Demo(config, CELL_SIZES, PATCH_SIZES).to(device)
    done, steps, pictures, ema, resumed = 0.0, 0, 0, None, False
    last = run / "last.pt"
    optimiser = None
    if last.exists():
        saved = torch.load(last, map_location=device, weights_only=False)
        config = Config(**saved["config"])
        model = Demo(config, CELL_SIZES, PATCH_SIZES).to(device)
        model.load_state_dict(saved["model"])
        optimiser = Muon(model, args.lr, args.muon_scale)
        optimiser.load(saved["optimiser"])
        ema = {k: v.clone() for k, v in saved["ema"].items()}
        done, steps, pictures, resumed = saved["minutes"], saved["steps"], saved["pictures"], True
    else:
        probe = Batches(str(run / "tokenizer.json"), PHASES["v"], 1)
        probe.tokens = Tokens(tk)
        sample = probe.batch("w5e", 64, np.random.default_rng(7))["pixels"].float() / 127.5 - 1
        model.cpu().initialise(sample)
        if args.start_from:
            print(start_from(model, Path(args.start_from), tk))
        model.to(device)
        optimiser = Muon(model, args.lr, args.muon_scale)
    params, aux_params = list(model.parameters()), list(model.aux.parameters())
    work = copy.deepcopy(model).to(
        torch.bfloat16
    )  # computes; `model` holds the float32 weights that are updated
    if args.compile:
        for block in (*work.vit.blocks, *work.llm.blocks):
            block.forward = torch.compile(block.forward, dynamic=True)
    if ema is None:
        ema = {k: v.detach().clone() for k, v in model.state_dict().items()}

    def say(text: str) -> None:
        if rank:
            return
        line = time.strftime("%H:%M:%S ") + text
        print(line, flush=True)
        with open(run / "log.txt", "a") as log:
            log.write(line + "\n")

    n_body = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("aux"))
    phases = parse_phases(args.phases, args.minutes)
    total = sum(m for _, m in phases)
    say(
        f"{'resumed' if resumed else 'start'} preset {preset} on {device} {n_body / 1e6:.2f} M parameters, "
        f"vocabulary {config.vocab}, phases {phases}, {done:.1f} min done"
    )

    def save(name: str) -> None:
        if rank:
            return
        state = {
            "model": model.state_dict(),
            "ema": ema,
            "optimiser": optimiser.state(),
            "config": config.as_dict(),
            "minutes": done,
            "steps": steps,
            "pictures": pictures,
        }
        torch.save(state, run / (name + ".tmp"))
        os.replace(run / (name + ".tmp"), run / name)

    end = 0.0
    for number, (name, minutes) in enumerate(phases):
        end += minutes
        if done >= end - 1e-6:
            continue
        phase = PHASES[name]
        optimiser.set_encoder(phase["encoder_lr"])
        loader = iter(
            torch.utils.data.DataLoader(
                Batches(str(run / "tokenizer.json"), phase, args.seed * 100000 + steps + number, rank),
                batch_size=None,
                num_workers=args.workers,
                prefetch_factor=6 if args.workers else None,
            )
        )
        say(f"phase {name} until {end:.1f} min")
        tallies, sums, seen, t_log, last_save, t_step = (
            {},
            [],
            0,
            time.time(),
            time.time(),
            time.time(),
        )
        phase_start = steps
        while done < end:
            batch = to(next(loader), device)
            loss, aux, logs, counts = forward(work, batch, prefix)
            (loss + args.aux * aux).backward()
            for p, q in zip(params, work.parameters(), strict=True):
                p.grad, q.grad = None if q.grad is None else q.grad.float(), None
            if ranks is not None:
                for p in aux_params:  # a batch may have nothing for some head; all ranks must send the same
                    p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                used = [p for p in params if p.grad is not None]
                flat = torch.cat([p.grad.reshape(-1) for p in used] + [torch.tensor([done])])
                flat = ranks.mean(rank, steps, flat)
                done = flat[-1].item()
                for p, g in zip(used, flat[:-1].split([p.numel() for p in used]), strict=True):
                    p.grad = g.view(p.shape)
            norm = torch.nn.utils.clip_grad_norm_(params, 2.0)
            left = 1 - done / total
            factor = min(1.0, (steps + 1) / 60, (steps - phase_start + 15) / 60) * min(
                1.0, 0.02 + left / args.decay
            )
            if torch.isfinite(norm):
                optimiser.step(factor)
            steps += 1
            with torch.no_grad():
                torch._foreach_copy_(list(work.parameters()), params)
                live = model.state_dict()
                a = min(args.ema, steps / (steps + 20))
                if steps % 4 == 0:
                    torch._foreach_lerp_(list(ema.values()), list(live.values()), 1 - a**4)
            n = batch["image_pos"].shape[0]
            pictures, seen = pictures + n * args.ranks, seen + n * args.ranks
            sums.append((loss.item() if counts else float("nan"), aux.item()))
            table = tallies.setdefault(batch["recipe"].rstrip("ef"), ({}, {}))
            for k, v in logs.items():
                table[1].setdefault(k, []).append(v)
            for k, (good, count) in counts.items():
                pair = table[0].setdefault(k, [0, 0])
                pair[0] += good
                pair[1] += count
            now = time.time()
            done += min(now - t_step, 20.0) / 60  # a stopped process does not age
            t_step = now
            if now - t_log > args.log_seconds:
                mean = [np.nanmean(column) for column in zip(*sums, strict=True)]
                say(
                    f"{name} {done:5.1f} min step {steps} pics {pictures} {seen / (now - t_log):.1f}/s "
                    f"lr {factor:.2f} loss {mean[0]:.3f} aux {mean[1]:.3f}"
                )
                for recipe, (kinds, heads) in sorted(tallies.items()):
                    text = " ".join(f"{k}:{100 * g / c:.0f}" for k, (g, c) in kinds.items() if c)
                    text += " | " + " ".join(f"{k}:{np.mean(v):.2f}" for k, v in heads.items())
                    say(f"    {recipe:5} {text}")
                tallies, sums, seen, t_log = {}, [], 0, now
            if now - last_save > args.save_minutes * 60:
                save("last.pt")
                last_save = now
        save("last.pt")
        save(f"phase-{name}.pt")
        del loader
    say("done")


def export(args) -> None:
    from training.export import export as write

    write(Path(args.run), Path(args.out), args.checkpoint)


def measure(args) -> None:
    """The table of training.world.evaluate for the torch model."""
    from training.reference import TorchModel
    from training.world.evaluate import evaluate

    torch.set_num_threads(args.threads)
    report = evaluate(
        TorchModel(Path(args.run_dir), args.checkpoint),
        pictures=args.pictures,
        seed=args.seed,
        progress=True,
        controls=args.controls,
    )
    print(report.markdown())
    for w in report.wrong[: args.show]:
        print(w)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sub = parser.add_subparsers(required=True)
    p = sub.add_parser("train")
    p.add_argument("--out", required=True, help="folder of the run: checkpoints, log, tokenizer")
    p.add_argument(
        "--start-from", help="folder of a converted pair, or RUN/last.pt, whose weights are the start"
    )
    p.add_argument("--assets", default="", help="folder that training/assets.py wrote: more sets of emoji")
    p.add_argument("--preset", choices=list(PRESETS))
    p.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    p.add_argument("--minutes", type=float, default=100)
    p.add_argument("--phases", help="a:40,b:20,... instead of the default shares of --minutes")
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--muon-scale", type=float, default=0.36, help="root mean square of Muon's step, in lr")
    p.add_argument("--aux", type=float, default=0.5)
    p.add_argument(
        "--decay",
        type=float,
        default=0.3,
        help="share of the time over which the learning rate falls at the end",
    )
    p.add_argument("--ema", type=float, default=0.997)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument(
        "--ranks", type=int, default=1, help="processes that share the work on a CPU (use --threads 1)"
    )
    p.add_argument("--workers", type=int, default=1)
    p.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the blocks (needs a C++ compiler; about 20% faster on a CPU)",
    )
    p.add_argument("--save-minutes", type=float, default=3)
    p.add_argument("--log-seconds", type=float, default=60)
    p.set_defaults(run=train)
    p = sub.add_parser("export")
    p.add_argument("--run", dest="run_dir", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--checkpoint", default="last.pt")
    p.set_defaults(
        run=lambda a: export(argparse.Namespace(run=a.run_dir, out=a.out, checkpoint=a.checkpoint))
    )
    p = sub.add_parser("eval", help="accuracy of the torch model")
    p.add_argument("--run", dest="run_dir", required=True)
    p.add_argument("--checkpoint", default="last.pt")
    p.add_argument("--pictures", type=int, default=200)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--controls", action="store_true")
    p.add_argument("--show", type=int, default=0, help="print so many wrong answers")
    p.set_defaults(run=measure)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
