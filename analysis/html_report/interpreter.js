/* Run functions that graph_export.py wrote: lists of operations on typed arrays.

   graphInterpreter.compile(graph) gives a function of one array; arrays of each step are allocated
   once. Sums are in double precision, and results are rounded to the type of their step. */
"use strict";

globalThis.graphInterpreter = (() => {
  const ARRAYS = {
    f4: Float32Array, f8: Float64Array, i8: Float64Array, i4: Int32Array,
    u1: Uint8Array, u2: Uint16Array,
  };
  const product = (shape) => shape.reduce((a, b) => a * b, 1);

  // ---- stored arrays --------------------------------------------------------------------------

  let halves = null;

  /** The values of all float16 bit patterns. */
  function halfTable() {
    if (halves) return halves;
    halves = new Float32Array(65536);
    for (let bits = 0; bits < 65536; bits++) {
      const sign = bits & 0x8000 ? -1 : 1;
      const exponent = (bits >> 10) & 31;
      const fraction = bits & 1023;
      if (exponent === 0) halves[bits] = sign * fraction * 2 ** -24;
      else if (exponent === 31) halves[bits] = fraction ? NaN : sign * Infinity;
      else halves[bits] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
    }
    return halves;
  }

  /** A stored array {type, shape, scale, data} as a typed array. */
  async function decode(stored) {
    const text = atob(stored.data);
    const packed = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = await new Response(stream).arrayBuffer();
    if (stored.type !== "f2") return new ARRAYS[stored.type](bytes);
    const table = halfTable();
    return Float32Array.from(new Uint16Array(bytes), (bits) => table[bits] * stored.scale);
  }

  // ---- element by element ---------------------------------------------------------------------

  /** The error function, to 1.2e-7 (Numerical Recipes, section 6.2). */
  function erf(x) {
    const t = 1 / (1 + 0.5 * Math.abs(x));
    const series = [
      0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418,
      0.37409196, 1.00002368,
    ].reduce((sum, coefficient) => sum * t + coefficient);
    const tail = t * Math.exp(-x * x - 1.26551223 + t * series);
    return x >= 0 ? 1 - tail : tail - 1;
  }

  const sigmoid = (x) => 1 / (1 + Math.exp(-x));
  const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

  /** Half to even, as torch rounds. */
  function round(x) {
    const down = Math.floor(x);
    const rest = x - down;
    if (rest !== 0.5) return Math.round(x);
    return down % 2 === 0 ? down : down + 1;
  }

  // Functions of NaN are NaN: comparisons are written so that it passes through.
  const ELEMENTWISE = {
    relu: (x) => (x <= 0 ? 0 : x),
    sigmoid,
    tanh: (x) => Math.tanh(x),
    exp: (x) => Math.exp(x),
    log: (x) => Math.log(x),
    log1p: (x) => Math.log1p(x),
    expm1: (x) => Math.expm1(x),
    neg: (x) => -x,
    abs: (x) => Math.abs(x),
    sqrt: (x) => Math.sqrt(x),
    rsqrt: (x) => 1 / Math.sqrt(x),
    reciprocal: (x) => 1 / x,
    square: (x) => x * x,
    sign: (x) => Math.sign(x),
    sin: (x) => Math.sin(x),
    cos: (x) => Math.cos(x),
    floor: (x) => Math.floor(x),
    ceil: (x) => Math.ceil(x),
    round,
    erf,
    special_ndtr: (x) => (1 + erf(x / Math.SQRT2)) / 2,
    isnan: (x) => (x !== x ? 1 : 0),
    isfinite: (x) => (Number.isFinite(x) ? 1 : 0),
    logical_not: (x) => (x ? 0 : 1),
    silu: (x) => x * sigmoid(x),
    gelu: (x) => (x * (1 + erf(x / Math.SQRT2))) / 2,
    gelu_tanh: (x) => (x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))) / 2,
    cast: (x) => x,
    add: (x, y) => x + y,
    sub: (x, y) => x - y,
    mul: (x, y) => x * y,
    div: (x, y) => x / y,
    pow: (x, y) => x ** y,
    atan2: (x, y) => Math.atan2(x, y),
    maximum: (x, y) => Math.max(x, y),
    minimum: (x, y) => Math.min(x, y),
    logaddexp: (x, y) => (x === y ? x + Math.LN2 : Math.max(x, y) + softplus(-Math.abs(x - y))
      - Math.max(0, -Math.abs(x - y))),
    eq: (x, y) => (x === y ? 1 : 0),
    ne: (x, y) => (x !== y ? 1 : 0),
    lt: (x, y) => (x < y ? 1 : 0),
    le: (x, y) => (x <= y ? 1 : 0),
    gt: (x, y) => (x > y ? 1 : 0),
    ge: (x, y) => (x >= y ? 1 : 0),
    logical_and: (x, y) => (x && y ? 1 : 0),
    logical_or: (x, y) => (x || y ? 1 : 0),
    where: (condition, x, y) => (condition ? x : y),
    clamp: (x, low, high) => Math.min(Math.max(x, low), high),
    leaky_relu: (x, slope) => (x > 0 ? x : x * slope),
    softplus: (x, beta, threshold) => (x * beta > threshold ? x : softplus(x * beta) / beta),
    elu: (x, alpha, scale, inner) =>
      (x > 0 ? x * scale : alpha * scale * Math.expm1(x * inner)),
  };

  /** For each element of a shape, the place in an array of another shape that it reads. */
  function places(shape, offset, strides) {
    const result = new Int32Array(product(shape)).fill(offset);
    let inner = 1;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      if (strides[axis] !== 0) {
        for (let i = 0; i < result.length; i++) {
          result[i] += (Math.floor(i / inner) % shape[axis]) * strides[axis];
        }
      }
      inner *= shape[axis];
    }
    return result;
  }

  /** As `places`, for an array that broadcasts to the shape. */
  function broadcast(shape, from) {
    const strides = shape.map(() => 0);
    let stride = 1;
    for (let axis = 1; axis <= from.length; axis++) {
      const size = from[from.length - axis];
      if (size !== 1) strides[shape.length - axis] = stride;
      stride *= size;
    }
    return places(shape, 0, strides);
  }

  function elementwise(f, step, inputs, out) {
    const n = out.length;
    const [a, b, c, d] = inputs.map((input) => input.data);
    const [at, bt, ct, dt] = inputs.map((input) => broadcast(step.shape, input.shape));
    if (inputs.length === 1) {
      return () => { for (let i = 0; i < n; i++) out[i] = f(a[i]); };
    }
    if (inputs.length === 2) {
      return () => { for (let i = 0; i < n; i++) out[i] = f(a[at[i]], b[bt[i]]); };
    }
    if (inputs.length === 3) {
      return () => { for (let i = 0; i < n; i++) out[i] = f(a[at[i]], b[bt[i]], c[ct[i]]); };
    }
    return () => {
      for (let i = 0; i < n; i++) out[i] = f(a[at[i]], b[bt[i]], c[ct[i]], d[dt[i]]);
    };
  }

  // ---- reductions and operations along an axis --------------------------------------------------

  const REDUCTIONS = {
    sum: [0, (x, y) => x + y],
    mean: [0, (x, y) => x + y],
    prod: [1, (x, y) => x * y],
    amax: [-Infinity, Math.max],
    amin: [Infinity, Math.min],
  };

  function reduction(step, [input], out) {
    const strides = input.shape.map(() => 0);
    let stride = 1;
    for (let axis = input.shape.length - 1; axis >= 0; axis--) {
      if (step.axes.includes(axis)) continue;
      strides[axis] = stride;
      stride *= input.shape[axis];
    }
    const to = places(input.shape, 0, strides);
    const total = new Float64Array(out.length);
    const n = input.data.length;
    const reduce = (kind, value) => {
      const [start, join] = REDUCTIONS[kind];
      total.fill(start);
      for (let i = 0; i < n; i++) total[to[i]] = join(total[to[i]], value(i));
    };
    if (step.op === "logsumexp") {
      return () => {
        reduce("amax", (i) => input.data[i]);
        const most = total.map((x) => (Number.isFinite(x) ? x : 0));
        reduce("sum", (i) => Math.exp(input.data[i] - most[to[i]]));
        for (let j = 0; j < out.length; j++) out[j] = most[j] + Math.log(total[j]);
      };
    }
    const divisor = step.op === "mean" ? n / out.length : 1;
    return () => {
      reduce(step.op, (i) => input.data[i]);
      for (let j = 0; j < out.length; j++) out[j] = total[j] / divisor;
    };
  }

  /** Call a function with the start of each line along an axis, the line's length and its step. */
  function alongAxis(shape, axis, call) {
    const length = shape.length ? shape[axis] : 1;
    const inner = product(shape.slice(axis + 1));
    const outer = product(shape.slice(0, axis));
    for (let o = 0; o < outer; o++) {
      for (let i = 0; i < inner; i++) call(o * length * inner + i, length, inner);
    }
  }

  function softmax(step, [{ data }], out) {
    const log = step.op === "log_softmax";
    return () => alongAxis(step.shape, step.axis, (start, length, by) => {
      let most = -Infinity;
      for (let k = 0; k < length; k++) most = Math.max(most, data[start + k * by]);
      let total = 0;
      for (let k = 0; k < length; k++) total += Math.exp(data[start + k * by] - most);
      for (let k = 0; k < length; k++) {
        const x = data[start + k * by] - most;
        out[start + k * by] = log ? x - Math.log(total) : Math.exp(x) / total;
      }
    });
  }

  function cumsum(step, [{ data }], out) {
    return () => alongAxis(step.shape, step.axis, (start, length, by) => {
      let total = 0;
      for (let k = 0; k < length; k++) {
        total += data[start + k * by];
        out[start + k * by] = total;
      }
    });
  }

  /** Each row less its mean, over the root of its variance plus eps. */
  function normalise(step, [{ data }], out) {
    const length = out.length / step.rows;
    return () => {
      for (let start = 0; start < out.length; start += length) {
        let mean = 0;
        let variance = 0;
        for (let i = 0; i < length; i++) mean += data[start + i] / length;
        for (let i = 0; i < length; i++) variance += (data[start + i] - mean) ** 2 / length;
        const scale = 1 / Math.sqrt(variance + step.eps);
        for (let i = 0; i < length; i++) out[start + i] = (data[start + i] - mean) * scale;
      }
    };
  }

  // ---- elements in another order ----------------------------------------------------------------

  function gather(step, [{ data }], out) {
    const from = step.index || places(step.shape, step.offset, step.strides);
    return () => { for (let i = 0; i < out.length; i++) out[i] = data[from[i]]; };
  }

  function cat(step, inputs, out) {
    const inner = product(step.shape.slice(step.axis + 1));
    const row = step.shape[step.axis] * inner;
    let start = 0;
    const parts = inputs.map(({ data, shape }) => {
      const part = { data, start, length: shape[step.axis] * inner };
      start += part.length;
      return part;
    });
    return () => {
      for (const { data, start: first, length } of parts) {
        for (let i = 0; i < data.length; i++) {
          out[Math.floor(i / length) * row + first + (i % length)] = data[i];
        }
      }
    };
  }

  // ---- products -----------------------------------------------------------------------------------

  /** out[m, n] = sum over k of a[start + m down + k across] b[from + k columns + n]. */
  function multiply({ a, start, down, across }, { b, from }, [rows, inner, columns], out) {
    out.fill(0, 0, rows * columns);
    const whole = inner - (inner % 4);
    for (let m = 0; m < rows; m++) {
      const to = m * columns;
      const left = start + m * down;
      // Four rows of b at a time, which reads and writes the sums less often.
      for (let k = 0; k < whole; k += 4) {
        const [p, q] = [a[left + k * across], a[left + (k + 1) * across]];
        const [r, s] = [a[left + (k + 2) * across], a[left + (k + 3) * across]];
        if (p === 0 && q === 0 && r === 0 && s === 0) continue;
        const [i, j] = [from + k * columns, from + (k + 1) * columns];
        const [u, v] = [j + columns, j + 2 * columns];
        for (let n = 0; n < columns; n++) {
          out[to + n] += p * b[i + n] + q * b[j + n] + r * b[u + n] + s * b[v + n];
        }
      }
      for (let k = whole; k < inner; k++) {
        const value = a[left + k * across];
        for (let n = 0; n < columns; n++) out[to + n] += value * b[from + k * columns + n];
      }
    }
  }

  function matmul(step, [a, b], out) {
    const [rows, inner] = a.shape.slice(-2);
    const columns = b.shape[b.shape.length - 1];
    const sums = new Float64Array(rows * columns);
    const batches = out.length / (rows * columns);
    const ofB = b.shape.length > 2 ? inner * columns : 0;
    return () => {
      for (let batch = 0; batch < batches; batch++) {
        const left = { a: a.data, start: batch * rows * inner, down: inner, across: 1 };
        multiply(left, { b: b.data, from: batch * ofB }, [rows, inner, columns], sums);
        out.set(sums, batch * sums.length);
      }
    };
  }

  /* A convolution multiplies its kernels with patches of the input; a transposed one adds products
     of kernels and input as patches to the output. `near` has a patch at each position, `far` is
     what the patches cover. */
  function convolution(step, [x, w], out) {
    const { stride, padding, dilation, groups, transposed } = step;
    const [examples, inputs, ...size] = x.shape;
    const [, outputs, ...outSize] = step.shape;
    const [near, far] = transposed ? [size, outSize] : [outSize, size];
    const [inGroup, outGroup] = [inputs / groups, outputs / groups];
    const [kernelHeight, kernelWidth] = w.shape.slice(2);
    const kernel = kernelHeight * kernelWidth;
    const [positions, area, place] = [product(near), product(far), patchPlaces()];
    const patches = new Float64Array((transposed ? outGroup : inGroup) * kernel * positions);
    const sums = new Float64Array(outGroup * product(outSize));

    /** The place in `far` of each element of the kernel at each position; -1 outside. */
    function patchPlaces() {
      const result = new Int32Array(kernel * product(near)).fill(-1);
      let at = 0;
      for (let k = 0; k < kernel; k++) {
        const down = Math.floor(k / kernelWidth) * dilation[0] - padding[0];
        const right = (k % kernelWidth) * dilation[1] - padding[1];
        for (let row = 0; row < near[0]; row++) {
          for (let column = 0; column < near[1]; column++, at++) {
            const [y, z] = [row * stride[0] + down, column * stride[1] + right];
            if (y >= 0 && y < far[0] && z >= 0 && z < far[1]) result[at] = y * far[1] + z;
          }
        }
      }
      return result;
    }

    function transposedGroup(from, weights) {
      const left = { a: w.data, start: weights, down: 1, across: outGroup * kernel };
      const right = { b: x.data, from };
      multiply(left, right, [outGroup * kernel, inGroup, positions], patches);
      sums.fill(0);
      for (let i = 0; i < patches.length; i++) {
        const to = place[i % place.length];
        if (to >= 0) sums[Math.floor(i / place.length) * area + to] += patches[i];
      }
    }

    function plainGroup(from, weights) {
      for (let i = 0; i < patches.length; i++) {
        const at = place[i % place.length];
        patches[i] = at < 0 ? 0 : x.data[from + Math.floor(i / place.length) * area + at];
      }
      const inner = inGroup * kernel;
      const left = { a: w.data, start: weights, down: inner, across: 1 };
      multiply(left, { b: patches, from: 0 }, [outGroup, inner, positions], sums);
    }

    return () => {
      for (let block = 0; block < examples * groups; block++) {
        const weights = (block % groups) * (w.data.length / groups);
        (transposed ? transposedGroup : plainGroup)(block * inGroup * product(size), weights);
        out.set(sums, block * sums.length);
      }
    };
  }

  const OPERATIONS = {
    sum: reduction, mean: reduction, prod: reduction, amax: reduction, amin: reduction,
    logsumexp: reduction, softmax, log_softmax: softmax, cumsum, normalise, elements: gather, cat,
    matmul, convolution,
  };

  /** A stored function as a function of an array; its result is a new array. */
  async function compile(graph) {
    const values = [{ shape: graph.shape, data: new ARRAYS[graph.type](product(graph.shape)) }];
    for (const stored of graph.constants) {
      const data = "number" in stored ? Float64Array.of(Number(stored.number))
        : await decode(stored);
      values.push({ shape: stored.shape, data });
    }
    const runs = [];
    for (const step of graph.steps) {
      const inputs = step.in.map((number) => values[number]);
      if (step.op === "elements" && step.strides === undefined && !step.places) {
        values.push({ shape: step.shape, data: inputs[0].data });  // The same in another shape.
        continue;
      }
      const data = new ARRAYS[step.type](product(step.shape));
      if (step.places) step.index = await decode(step.places);
      if (step.op === "cast" && step.type === "i8") {
        runs.push(elementwise(Math.trunc, step, inputs, data));
      } else if (step.op in ELEMENTWISE) {
        runs.push(elementwise(ELEMENTWISE[step.op], step, inputs, data));
      } else if (step.op in OPERATIONS) {
        runs.push(OPERATIONS[step.op](step, inputs, data));
      } else {
        throw new Error(`unknown operation ${step.op}`);
      }
      values.push({ shape: step.shape, data });
    }
    const input = values[0].data;
    const output = values[graph.output].data;
    return (x) => {
      if (x.length !== input.length) {
        throw new Error(`expected ${input.length} numbers, got ${x.length}`);
      }
      input.set(x);
      for (const run of runs) run();
      return output.slice();
    };
  }

  return { compile, decode };
})();
