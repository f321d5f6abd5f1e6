// Calls a Longwave server over gRPC's official Node client, as a script says, and prints what came of each call.
//
// It is tests/interop/go/main.go in another language: the same plan in, the same lines out. It judges nothing.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

import grpc from "@grpc/grpc-js";
import { loadFileDescriptorSetFromBuffer } from "@grpc/proto-loader";

const ANSWER_BYTES_MAX = 64 << 20;
const PIECE_BYTES = 2000;
const PATIENCE_MS = 60_000;
const GZIP = 2;

const plan = JSON.parse(readFileSync(process.argv[2], "utf8"));
const services = loadFileDescriptorSetFromBuffer(readFileSync(plan.descriptors), {
  keepCase: true,
  longs: String,
  enums: String,
});

function dial(options = {}) {
  const credentials = plan.ca
    ? grpc.credentials.createSsl(readFileSync(plan.ca))
    : grpc.credentials.createInsecure();
  return new grpc.Client(plan.target, credentials, {
    "grpc.use_local_subchannel_pool": 1,
    "grpc.enable_http_proxy": 0,
    "grpc.max_receive_message_length": ANSWER_BYTES_MAX,
    "grpc.max_send_message_length": -1,
    ...options,
  });
}

/** The method as it is described; of one that does not exist, one that asks and answers nothing. */
function described(method) {
  const [service, name] = method.split("/");
  return (
    services[service]?.[name] ?? {
      path: `/${method}`,
      requestStream: false,
      responseStream: false,
      requestSerialize: () => Buffer.alloc(0),
      responseDeserialize: () => ({}),
    }
  );
}

function metadataOf(call) {
  const metadata = new grpc.Metadata({ waitForReady: call.wait_for_ready ?? false });
  const key = call.key ?? plan.key;
  if (key) metadata.set("authorization", `Bearer ${key}`);
  for (let left = call.metadata_bytes ?? 0, number = 0; left > 0; left -= PIECE_BYTES, number++) {
    metadata.set(`x-piece-${number}`, "a".repeat(Math.min(left, PIECE_BYTES)));
  }
  return metadata;
}

function outcome(name, status, answers) {
  const trailers = {};
  let rich = "";
  for (const key of Object.keys(status.metadata.getMap())) {
    const values = status.metadata.get(key).map((value) => (Buffer.isBuffer(value) ? value.toString("base64") : value));
    if (key === "grpc-status-details-bin") [rich] = values;
    else trailers[key] = values;
  }
  return { name, code: status.code, details: status.code ? status.details : "", status: rich, trailers, answers };
}

function run(client, call) {
  const method = described(call.method);
  const request = structuredClone(call.request ?? {});
  if (call.text_bytes) request.submission.text = "a".repeat(call.text_bytes);
  const options = { deadline: Date.now() + (call.deadline_ms ?? PATIENCE_MS) };
  const { path, requestSerialize, responseDeserialize } = method;
  const rest = [metadataOf(call), options];
  const answers = [];
  return new Promise((resolve) => {
    const ended = (status) => resolve(outcome(call.name, status, answers));
    if (!method.responseStream) {
      const answered = (error, answer) => error || answers.push(answer);
      client.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, ...rest, answered).on("status", ended);
      return;
    }
    const both = method.requestStream;
    const stream = both
      ? client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize, ...rest)
      : client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request, ...rest);
    let [sent, answered, credit] = [0, 0, 0];
    stream.on("error", () => {}); // the status says it
    stream.on("status", ended);
    stream.on("data", (answer) => {
      answers.push(answer);
      if (call.take && answers.length === call.take) stream.cancel();
      if (!both || call.take) return;
      credit += answer.credit ?? 0;
      answered += Number(answer.sequence ?? 0) ? 1 : 0;
      for (; sent < call.times && credit >= request.submissions.length; credit -= request.submissions.length) {
        sent += 1;
        stream.write({ ...request, sequence: sent });
      }
      if (answered === call.times) stream.end();
    });
  });
}

const print = (said) => process.stdout.write(`${JSON.stringify(said)}\n`);

async function script() {
  const shared = dial();
  const packed = dial({ "grpc.default_compression_algorithm": GZIP });
  for (const call of plan.calls) {
    let client = call.gzip ? packed : shared;
    if (call.ping_ms) client = dial({ "grpc.keepalive_time_ms": call.ping_ms, "grpc.keepalive_permit_without_calls": 1 });
    let did = await run(client, call);
    if (call.hold_ms) {
      await sleep(call.hold_ms);
      did = await run(client, call);
    }
    print(did);
  }
}

/** Calls until the server goes, tells how each ended, and makes one more call when it is said that the server is back. */
async function drain({ submit, watch, stream, workers, first }) {
  const client = dial();
  let accepted = 0;
  const worker = async () => {
    for (;;) {
      const did = await run(client, submit);
      if (did.code) return did;
      accepted += 1;
      if (accepted === first) process.stdout.write("armed\n");
    }
  };
  const going = [run(client, watch), run(client, stream)];
  for (let number = 0; number < workers; number++) going.push(worker());
  print({ ended: await Promise.all(going), accepted });
  for await (const line of createInterface({ input: process.stdin })) {
    if (line) break;
  }
  print(await run(client, { ...submit, wait_for_ready: true }));
}

await (plan.drain ? drain(plan.drain) : script());
process.exit(0);
