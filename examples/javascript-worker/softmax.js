// Softmax regression: one linear layer, cross-entropy, plain gradient descent.
"use strict";

const { isMainThread, parentPort, workerData } = require("node:worker_threads");

// Whether a server's model is one for such data: a weight [classes, features] and a bias [classes].
function fits({ dtype, parameters, floating_buffers, integer_buffers }, { inputs }) {
  const [weight, bias] = parameters.map(([, shape]) => shape);
  const buffers = floating_buffers.length + integer_buffers.length;
  const linear = parameters.length === 2 && weight.length === 2 && String(bias) === `${weight[0]}`;
  return linear && dtype === "float32" && !buffers && weight[1] === inputs[0].length;
}

class Softmax {
  // data: { inputs: rows of numbers, targets: class numbers }.
  constructor({ inputs, targets }, { batch, epochs, rate }) {
    this.inputs = inputs;
    this.targets = targets;
    this.features = inputs[0].length;
    this.rate = Number(rate);
    this.batchSize = Math.min(Number(batch), inputs.length);
    this.numBatches = Math.floor(inputs.length / this.batchSize);
    this.batchesLeft = Math.max(1, Math.floor(Number(epochs) * this.numBatches));
    this.place = 0;
  }

  // What a job comes to. `base` stays as it is.
  train(base, { payload: kind, client }, { steps = 1, epochs, learning_rate, proximal = 0 }) {
    const wanted = epochs === undefined ? Number(steps) : Math.ceil(epochs * this.numBatches);
    const num_steps = Math.min(wanted, this.batchesLeft);
    this.classes = base.length / (this.features + 1);
    const rate = learning_rate ?? this.rate;
    const pull = client.reduce((sum, { settings }) => sum + settings[0], proximal);
    const local = Float32Array.from(base);
    const mean = new Float32Array(base.length);
    let loss = 0;
    for (let step = 0; step < num_steps; step += 1) {
      const found = this.#differentiate(local);
      loss += found.loss / num_steps;
      for (let i = 0; i < base.length; i += 1) {
        const slope = found.gradient[i] + pull * (local[i] - base[i]);
        mean[i] += slope / num_steps;
        if (kind !== "gradient") local[i] -= rate * slope;
      }
    }
    this.batchesLeft -= num_steps;
    const change = local.map((value, i) => value - base[i]);
    const payload = { gradient: mean, delta: change, weights: local }[kind];
    const num_examples = num_steps * this.batchSize;
    return { payload, loss, num_steps, num_examples, num_processed: num_examples };
  }

  // The next batch's mean loss, and its gradient.
  #differentiate(model) {
    const { classes, features, batchSize } = this;
    const gradient = new Float64Array(model.length);
    const biases = classes * features;
    let loss = 0;
    for (let k = 0; k < batchSize; k += 1) {
      const x = this.inputs[this.place];
      const target = this.targets[this.place];
      this.place = (this.place + 1) % (this.numBatches * batchSize);
      const scores = Array.from({ length: classes }, (_, c) =>
        x.reduce((sum, value, j) => sum + model[c * features + j] * value, model[biases + c]),
      );
      const top = Math.max(...scores);
      const total = scores.reduce((sum, score) => sum + Math.exp(score - top), 0);
      loss += (Math.log(total) + top - scores[target]) / batchSize;
      for (let c = 0; c < classes; c += 1) {
        const error = (Math.exp(scores[c] - top) / total - (c === target)) / batchSize;
        for (let j = 0; j < features; j += 1) gradient[c * features + j] += error * x[j];
        gradient[biases + c] += error;
      }
    }
    return { gradient, loss };
  }
}

if (!isMainThread) {
  const softmax = new Softmax(workerData.data, workerData.options);
  parentPort.on("message", ({ id, base, instructions, order }) => {
    const result = softmax.train(base, instructions, order);
    parentPort.postMessage({ id, ...result, left: softmax.batchesLeft > 0 });
  });
}

module.exports = { fits };
