"""Run an exported network with NumPy alone: no JAX, no meanfield.

A network is an .npz file: its arrays by path, and under `program` a JSON list of
steps, each with its operation, the indices of the values that it reads and writes, and
settings.

    predict = load("subnetwork-0.npz")
    outputs = predict(x)                        # x: a batch, float32

A network with several inputs takes a dictionary of them by name, or the nested
dictionaries and tuples whose paths are these names: ``{"graph": {"nodes": x}}`` holds
``graph/nodes``.
"""

import json
import math

import numpy as np

FORMAT = 2  # 1: a single input


def load(path):
    """Read a network: returns a function from a batch to its outputs.

    Raises an error if arrays would need more memory than they take on disk.
    """
    try:
        with open(path, "rb") as stream:
            file = np.load(stream, allow_pickle=False)
            check_sizes(file.zip)
            program = json.loads(str(file["program"]))
            new = program["format"] > FORMAT
            names = {} if new else program["constants"]
            constants = {int(i): file[name] for name, i in names.items()}
            file.close()
    except OSError:
        raise
    except Exception as error:  # A damaged zip file raises any of a dozen types.
        raise ValueError(
            f"{path} is not a whole network: {error!r}. Restore it from a copy."
        ) from error
    if new:
        raise ValueError(
            f"{path} has format {program['format']}; this runtime reads up to "
            f"{FORMAT}. Use the numpy_runtime.py that was written with it."
        )

    def predict(x):
        inputs = read_inputs(program, x)
        values = {**constants, **inputs}
        # As in JAX, infinities and NaN pass without a warning.
        with np.errstate(all="ignore"):
            run(program["steps"], values, len(next(iter(inputs.values()))))
        outputs = [values[i] for i in program["outputs"]]
        return outputs[0] if len(outputs) == 1 else outputs

    return predict


def read_inputs(program, x):
    """The arrays of a batch, by the indices of their values."""
    if "input" in program:
        return {program["input"]: np.asarray(x, program["dtype"])}
    given, needed = dict(by_path(x)), program["inputs"]
    if given.keys() != needed.keys():
        raise ValueError(
            f"the inputs must be named {', '.join(needed)}; got {', '.join(given)}."
        )
    return {i: np.asarray(given[name], dtype) for name, (i, dtype) in needed.items()}


def by_path(x, path=()):
    """The arrays of dictionaries, lists and tuples, by names joined by slashes."""
    if isinstance(x, dict):
        parts = x.items()
    elif isinstance(x, list | tuple):
        parts = zip(getattr(x, "_fields", range(len(x))), x, strict=True)
    else:
        yield "/".join(path), x
        return
    for name, part in parts:
        yield from by_path(part, (*path, str(name)))


def check_sizes(parts):
    """Raise for compressed arrays and for headers that state a wrong size."""
    for part in parts.infolist():
        with parts.open(part) as stream:
            version, _ = np.lib.format.read_magic(stream)
            read = getattr(np.lib.format, f"read_array_header_{version}_0")
            shape, _, dtype = read(stream)
            size = stream.tell() + math.prod(shape) * dtype.itemsize
            if part.compress_type or size != part.file_size:
                raise ValueError(
                    f"{part.filename} is compressed or has {part.file_size:,} bytes, "
                    f"and its header states {size:,}"
                )


def run(steps, values, batch):
    """Execute the steps; `values` maps the index of a value to its array."""
    for step in steps:
        read = [values[i] for i in step["in"]]
        if step["op"] == "scan":
            results = _scan(step, read, values, batch)
        else:
            settings = dict(step["set"])
            if "shape" in settings:
                settings["shape"] = [
                    batch if size == "batch" else size for size in settings["shape"]
                ]
            results = OPERATIONS[step["op"]](*read, **settings)
        results = results if isinstance(results, list) else [results]
        values.update(zip(step["out"], results, strict=True))


def _scan(step, read, values, batch):
    """A loop along the first axis of the sequences: a recurrent network in time."""
    carries, rows = read[: step["carries"]], read[step["carries"] :]
    body, collected = step["body"], []
    times = range(step["length"])
    for t in reversed(times) if step["reverse"] else times:
        given = [*carries, *(row[t] for row in rows)]
        inside = {**values, **dict(zip(body["in"], given, strict=True))}
        run(body["steps"], inside, batch)
        results = [inside[i] for i in body["out"]]
        carries = results[: step["carries"]]
        collected.append(results[step["carries"] :])
    if step["reverse"]:
        collected.reverse()
    return [*carries, *(np.stack(column) for column in zip(*collected, strict=True))]


def dot(a, b, contract, batch):
    """Sum of products over the axes `contract`, for each index of the axes `batch`."""
    if not batch[0]:
        return np.tensordot(a, b, contract)
    left, right = list(range(a.ndim)), list(range(a.ndim, a.ndim + b.ndim))
    for i, j in [*zip(*contract, strict=True), *zip(*batch, strict=True)]:
        right[j] = left[i]
    used = {*contract[0], *batch[0]}
    kept = [left[i] for i in batch[0]] + [
        k for i, k in enumerate(left) if i not in used
    ]
    used = {*contract[1], *batch[1]}
    kept += [k for j, k in enumerate(right) if j not in used]
    return np.einsum(a, left, b, right, kept, optimize=True)


def windows(x, sizes, strides, dilation):
    """View of x whose last axes run over the windows of the given sizes."""
    spans = [(size - 1) * d + 1 for size, d in zip(sizes, dilation, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, spans)
    steps = [slice(None, None, s) for s in strides]
    return view[tuple(steps + [slice(None, None, d) for d in dilation])]


def conv(x, w, layout, strides, padding, spread, dilation, groups):
    """Cross-correlation; `spread` puts zeros between inputs (transposed kernels)."""
    x, w = np.transpose(x, layout[0]), np.transpose(w, layout[1])
    if any(s > 1 for s in spread):
        sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], spread, strict=True)]
        wide = np.zeros((*x.shape[:2], *sizes), x.dtype)
        wide[(..., *(slice(None, None, s) for s in spread))] = x
        x = wide
    x = np.pad(x, [(0, 0), (0, 0), *padding])
    space = w.ndim - 2
    view = windows(x, (1, 1, *w.shape[2:]), (1, 1, *strides), (1, 1, *dilation))
    view = view.reshape(view.shape[: 2 + space] + w.shape[2:])
    axes = [1, *range(2 + space, 2 + 2 * space)], [1, *range(2, 2 + space)]
    parts = zip(np.split(view, groups, 1), np.split(w, groups, 0), strict=True)
    y = np.concatenate([np.tensordot(v, k, axes) for v, k in parts], -1)
    return np.transpose(np.moveaxis(y, -1, 1), layout[2])


def pool(x, kind, sizes, strides, padding, dilation):
    """Maximum, minimum or sum over sliding windows."""
    empty = {"max": -np.inf, "min": np.inf, "sum": 0}[kind]
    x = np.pad(x, padding, constant_values=empty) if np.any(padding) else x
    last = tuple(range(-x.ndim, 0))
    return getattr(np, kind)(windows(x, sizes, strides, dilation), axis=last)


def take(table, indices, axis, column, keep):
    """Entries of a table along an axis; an index past the end means the last entry."""
    indices = np.clip(indices[..., column], 0, table.shape[axis] - 1)
    found = np.moveaxis(table, axis, 0)[indices]
    return np.expand_dims(found, indices.ndim + axis) if keep else found


def broadcast(x, shape, axes):
    """Place the axes of x at `axes` of a larger shape, and repeat along the others."""
    sizes = [1] * len(shape)
    for size, axis in zip(x.shape, axes, strict=True):
        sizes[axis] = size
    return np.broadcast_to(x.reshape(sizes), shape)


def cut(x, start, stop, step):
    """Every `step`-th entry from start to stop, for each axis."""
    return x[tuple(map(slice, start, stop, step))]


def split(x, axis, sizes):
    """Consecutive pieces along an axis."""
    return np.split(x, np.cumsum(sizes)[:-1], axis)


def over(function):
    """A reduction over the axes `axes`."""
    return lambda x, axes: function(x, axis=tuple(axes))


OPERATIONS = {
    "abs": np.abs, "acos": np.arccos, "acosh": np.arccosh, "add": np.add,
    "and": np.logical_and, "asin": np.arcsin, "asinh": np.arcsinh, "atan": np.arctan,
    "atanh": np.arctanh, "ceil": np.ceil, "cos": np.cos, "cosh": np.cosh,
    "div": np.divide, "eq": np.equal, "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1,
    "floor": np.floor, "ge": np.greater_equal, "gt": np.greater,
    "is_finite": np.isfinite, "le": np.less_equal, "log": np.log, "log1p": np.log1p,
    "lt": np.less, "max": np.maximum, "min": np.minimum, "mul": np.multiply,
    "ne": np.not_equal, "neg": np.negative, "not": np.logical_not, "or": np.logical_or,
    "pow": np.power, "rem": np.fmod, "round": np.round, "sign": np.sign, "sin": np.sin,
    "sinh": np.sinh, "sqrt": np.sqrt, "square": np.square, "sub": np.subtract,
    "tan": np.tan, "tanh": np.tanh, "matmul": np.matmul,
    "linear": lambda x, w, b: x @ w + b,
    "pick": lambda x, indices, axis: np.take(x, indices, axis),
    "logistic": lambda x: (0.5 * (1 + np.tanh(0.5 * x))).astype(x.dtype),
    "rsqrt": lambda x: (1 / np.sqrt(x)).astype(x.dtype),
    "erf": lambda x: np.vectorize(math.erf, otypes=[x.dtype])(x),
    "erfc": lambda x: np.vectorize(math.erfc, otypes=[x.dtype])(x),
    "integer_pow": lambda x, y: x**y,
    "select": lambda which, no, yes: np.where(which, yes, no),
    "cast": lambda x, dtype: np.asarray(x).astype(dtype),
    "clamp": lambda low, x, high: np.clip(x, low, high),
    "sum": over(np.sum), "prod": over(np.prod), "amax": over(np.max),
    "amin": over(np.min), "any": over(np.any), "all": over(np.all),
    "argmax": lambda x, axis, dtype: np.argmax(x, axis).astype(dtype),
    "argmin": lambda x, axis, dtype: np.argmin(x, axis).astype(dtype),
    "reshape": lambda x, shape: np.reshape(x, shape),
    "transpose": lambda x, axes: np.transpose(x, axes),
    "squeeze": lambda x, axes: np.squeeze(x, tuple(axes)),
    "reverse": lambda x, axes: np.flip(x, axes),
    "concatenate": lambda *parts, axis: np.concatenate(parts, axis),
    "stack": lambda *parts, axis: np.stack(parts, axis),
    "unstack": lambda x, axis: list(np.moveaxis(x, axis, 0)),
    "tile": lambda x, reps: np.tile(x, reps),
    "pad": lambda x, fill, widths: np.pad(x, widths, constant_values=fill),
    "broadcast": broadcast, "cut": cut, "split": split, "take": take,
    "dot": dot, "conv": conv, "pool": pool,
}  # fmt: skip
