#!/usr/bin/env node
// A client of the store after docs/protocol.md, on Node.js (18 or newer) alone. Many requests may be under way.
//
//     node kv.mjs HOST:PORT[,HOST:PORT...] get KEY | put KEY VALUE [VERSION] | remove KEY | alive
//
// Exit status: 0; 1: the node says no; 2: wrong arguments; 3: no answer, so that a put or remove may have taken effect.
//
//     import { Kv } from "./kv.mjs";
//     const kv = await Kv.open("10.0.0.1:3331", "10.0.0.2:3331");
//     await kv.put("greeting", "hello", 3);
//     const { value, version } = await kv.get("greeting"); // a Buffer, 3
//     kv.close();
import { randomBytes } from "node:crypto";
import { createSocket } from "node:dgram";
import { lookup } from "node:dns/promises";
import { realpathSync } from "node:fs";
import { fileURLToPath } from "node:url";

const TIMEOUTS_MS = [150, 450, 1350, 2500, 2000]; // the silence after each try
// Nodes remember a request for 6 s: no try leaves later than this after one that nobody answered.
const SAFE_RETRY_MS = 5000;
const PATIENCE_MS = 10_000; // with refusals, until the caller hears of them
const DATAGRAM_MAX_BYTES = 16 * 1024;
const [PUT, GET, REMOVE, IS_ALIVE, SYS_OVERLOAD_ERR] = [1, 2, 3, 6, 3];
const ERRORS = ["", "no such key", "the store is full", "overloaded: nothing was done", "a fault in the node",
  "unknown command", "a key has 1 to 32 bytes", "a value has at most 10,000 bytes"];

/** `code`: an errCode, or 0: no answer, so that a put or remove may have taken effect, and may yet. */
export class Failure extends Error {
  constructor(code, text) {
    super(text);
    this.code = code;
  }
}

export class Kv {
  #servers = []; // { host, port, socket }
  #names;
  #sockets = {}; // by family; not connected: a late answer of any server is heard
  #current = 0; // the server that the next try goes to
  #heard = new Map(); // what to do with an answer, by messageID

  static async open(...addresses) {
    const kv = new Kv();
    kv.#names = addresses.join(", ");
    for (const name of addresses) {
      const [, bracketed, bare, port] = name.match(/^(?:\[(.+)\]|([^:]+)):(\d+)$/) ?? [];
      if (!(port > 0 && port < 65_536)) throw new TypeError(`${name}: a server is HOST:PORT`);
      const { address: host, family } = await lookup(bracketed ?? bare, { verbatim: false });
      const socket = (kv.#sockets[family] ??= createSocket(`udp${family}`, (datagram) => kv.#receive(datagram)));
      kv.#servers.push({ host, port: Number(port), socket });
    }
    return kv;
  }

  async get(key) {
    const answer = await this.#request("get", [[1, GET], [2, Buffer.from(key)]]);
    return { value: answer[2] ?? Buffer.alloc(0), version: Number(BigInt.asIntN(32, answer[4] ?? 0n)) };
  }

  async put(key, value, version = 0) {
    await this.#request("put", [[1, PUT], [2, Buffer.from(key)], [3, Buffer.from(value)], [4, version]]);
  }

  async remove(key) {
    await this.#request("remove", [[1, REMOVE], [2, Buffer.from(key)]]);
  }

  async alive() {
    await this.#request("alive", [[1, IS_ALIVE]]);
  }

  close() {
    for (const socket of Object.values(this.#sockets)) socket.close();
  }

  async #request(what, fields) {
    const id = randomBytes(16); // one for all tries of a request, a new one for each request
    const payload = encode(fields);
    const datagram = encode([[1, id], [2, payload], [3, crc32(id, payload)]]);
    if (datagram.length > DATAGRAM_MAX_BYTES) throw new RangeError(`${what}: key or value is too long`);
    // By the wall clock, which goes on while the machine sleeps. `oldest`: when a try left that may yet happen.
    const started = Date.now();
    let [oldest, unanswered, trouble] = [started, false, ""]; // unanswered: some try was
    for (let step = 0; step < TIMEOUTS_MS.length && Date.now() <= oldest + SAFE_RETRY_MS; ) {
      const index = this.#current;
      const { host, port, socket } = this.#servers[index];
      socket.send(datagram, port, host, (error) => {
        if (error) trouble = ` (${error.message})`; // no way there, say: the next server may have one
      });
      let [due, refused] = [performance.now() + TIMEOUTS_MS[step], false];
      for (let answer; (answer = await this.#answer(id, due)); ) {
        const code = Number(answer[1] ?? 0n);
        if (code === 0) return answer;
        const text = `${what}: ${ERRORS[code] ?? `error code ${code}`}`;
        if (code !== SYS_OVERLOAD_ERR) throw new Failure(code, text);
        if (refused) continue; // it belongs to an earlier try
        refused = true;
        const asked = Math.min(Math.max(Number(BigInt.asIntN(32, answer[5] ?? 0n)), 5), 7500);
        const wait = asked * (1 + Math.random() / 4); // who was refused together comes back apart
        if (Date.now() + wait > (unanswered ? oldest + SAFE_RETRY_MS : started + PATIENCE_MS)) {
          if (!unanswered) throw new Failure(code, text);
          throw new Failure(0, `${text} by this try, but one before got no answer`);
        }
        due = performance.now() + wait;
      }
      if (!refused) {
        unanswered = true;
        step++;
        this.#current = (index + 1) % this.#servers.length;
      } else if (!unanswered) oldest = Date.now();
    }
    throw new Failure(0, `${what}: no answer from ${this.#names}${trouble}`);
  }

  /** The answer to that request, or undefined: none until `due`. */
  #answer(id, due) {
    return new Promise((resolve) => {
      const done = (answer) => {
        clearTimeout(timer);
        this.#heard.delete(id.toString("hex"));
        resolve(answer);
      };
      const timer = setTimeout(done, due - performance.now());
      this.#heard.set(id.toString("hex"), done);
    });
  }

  /** Whatever is no answer to a request under way is ignored. */
  #receive(datagram) {
    try {
      const [, id, payload, checkSum, , type] = decode(datagram);
      const done = this.#heard.get(id.toString("hex"));
      if (done && type === 1n && checkSum === crc32(id, payload)) done(decode(payload));
    } catch { /* no message */ }
  }
}

function crc32(...parts) {
  let crc = 0xffffffff;
  for (const byte of Buffer.concat(parts)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 && 0xedb88320);
  }
  return BigInt(~crc >>> 0);
}

// Protocol buffers, as far as they are needed: numbers are varints, bigints fixed64, the rest are bytes.
function encode(fields) {
  const varint = (value) => {
    const bytes = [];
    for (value = BigInt.asUintN(64, BigInt(value)); value > 127n; value >>= 7n) bytes.push(Number(value & 127n) | 128);
    return Buffer.from([...bytes, Number(value)]);
  };
  return Buffer.concat(fields.flatMap(([number, value]) => {
    if (typeof value === "number") return [varint(number << 3), varint(value)];
    if (typeof value === "object") return [varint((number << 3) | 2), varint(value.length), value];
    const fixed = Buffer.alloc(8);
    fixed.writeBigUInt64LE(value);
    return [varint((number << 3) | 1), fixed];
  }));
}

/** The last field of each number: a bigint or a Buffer. RangeError: there is no such message. */
function decode(data) {
  const fields = [];
  let at = 0;
  const take = (length) => {
    if (length > data.length - at) throw new RangeError("cut short");
    return data.subarray(at, (at += length));
  };
  const varint = () => {
    for (let value = 0n, shift = 0n; shift < 64n; shift += 7n) {
      const [byte] = take(1);
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return BigInt.asUintN(64, value);
    }
    throw new RangeError("a number of more than 64 bits");
  };
  while (at < data.length) {
    const tag = Number(varint());
    const kind = tag & 7;
    if (kind === 0) fields[tag >>> 3] = varint();
    else if (kind === 1) fields[tag >>> 3] = take(8).readBigUInt64LE();
    else if (kind === 2) fields[tag >>> 3] = take(Number(varint()));
    else if (kind === 5) take(4);
    else throw new RangeError(`tag ${tag}`);
  }
  return fields;
}

async function main([servers = "", command = "", ...words]) {
  let kv;
  try {
    const usage = "HOST:PORT[,HOST:PORT...] get KEY | put KEY VALUE [VERSION] | remove KEY | alive";
    const [least, most] = { get: [1, 1], put: [2, 3], remove: [1, 1], alive: [0, 0] }[command] ?? [1, 0];
    const isVersion = /^-?\d{1,9}$/.test(words[2] ?? 0);
    if (words.length < least || words.length > most || !isVersion) throw new TypeError(usage);
    kv = await Kv.open(...servers.split(","));
    if (command === "put") words[2] = Number(words[2] ?? 0);
    const answer = await kv[command](...words);
    if (answer) process.stdout.write(Buffer.concat([answer.value, Buffer.from("\n")]));
  } catch (error) {
    console.error(`kv: ${error.message}`);
    process.exitCode = !(error instanceof Failure) ? 2 : error.code === 0 ? 3 : 1;
  } finally {
    kv?.close();
  }
}

const isCommand = process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url);
if (isCommand) await main(process.argv.slice(2));
