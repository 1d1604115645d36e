/**
 * A load generator for MQTT 3.1.1 QoS 1 in a process of its own: raw sockets and prepared packets, so that the
 * broker is what is measured. Arguments: JSON of LoadOptions; prints JSON of LoadResult.
 */

import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { generate } from 'mqtt-packet'
import { cpuMs } from './measure.ts'
import { connectMqtt } from './mqtt-connect.ts'

export interface LoadOptions {
  port: number
  /** The server's process, for its CPU time. */
  pid: number
  connections: number
  /** Publishes without PUBACK per connection. */
  window: number
  /** MQTT topics `bench/0`, `bench/1`, ... spread over the messages. */
  topics: number
  payloadBytes: number
  warmupMs: number
  measureMs: number
}

export interface LoadResult {
  messagesPerSecond: number
  /** CPU time of the server, the kernel's for it included: what of a comparison other load on the machine does not move. */
  cpuMicrosPerMessage: number
  publishP50Ms: number
  publishP99Ms: number
}

/** Latency samples kept, enough for one in SAMPLE_EVERY of some seconds' messages. */
const MAX_SAMPLES = 500_000
const SAMPLE_EVERY = 4
const ACK_BYTES = 4

interface Connection {
  socket: Socket
  /** The window's packets end to end, ids 1 to `window`: what is sent next is always a slice. */
  ring: Buffer
  /** Where in `ring` each packet starts, and its end. */
  places: number[]
  /** Send time by packet id - 1. */
  sentMs: Float64Array
  nextId: number
  /** The start of a PUBACK whose rest is in the next chunk. */
  partial: Buffer
}

/** Topics follow one another over the packets of all windows. */
function ringOf(options: LoadOptions, index: number): { ring: Buffer; places: number[] } {
  const payload = Buffer.alloc(options.payloadBytes, 0x61)
  const packets = Array.from({ length: options.window }, (_, id) =>
    generate({
      cmd: 'publish',
      topic: `bench/${(index * options.window + id) % options.topics}`,
      payload,
      qos: 1,
      messageId: id + 1,
      dup: false,
      retain: false,
    }),
  )
  const places = [0]
  for (const { length } of packets) places.push((places.at(-1) ?? 0) + length)
  return { ring: Buffer.concat(packets), places }
}

async function open(options: LoadOptions, index: number): Promise<Connection> {
  const socket = await connectMqtt(options.port, `load-${process.pid}-${index}`)
  const sentMs = new Float64Array(options.window)
  return { socket, ...ringOf(options, index), sentMs, nextId: 0, partial: Buffer.alloc(0) }
}

async function main(options: LoadOptions): Promise<LoadResult> {
  const connections: Connection[] = []
  for (let i = 0; i < options.connections; i++) connections.push(await open(options, i))
  let acked = 0
  let measuring = false
  const samples = new Float64Array(MAX_SAMPLES)
  let sampled = 0
  let failure: Error | undefined

  /** `count` is at most what the window has room for. */
  const send = (connection: Connection, count: number): void => {
    const { socket, ring, places, sentMs, nextId } = connection
    const end = Math.min(nextId + count, options.window)
    sentMs.fill(performance.now(), nextId, end)
    socket.write(ring.subarray(places[nextId], places[end]))
    connection.nextId = end % options.window
    if (nextId + count > end) send(connection, nextId + count - end)
  }

  const onData = (connection: Connection, chunk: Buffer): void => {
    const now = performance.now()
    const data = connection.partial.length === 0 ? chunk : Buffer.concat([connection.partial, chunk])
    let at = 0
    for (; at + ACK_BYTES <= data.length; at += ACK_BYTES) {
      if (data[at] !== 0x40) failure = new Error(`unexpected packet ${data[at]}`)
      if (++acked % SAMPLE_EVERY > 0 || !measuring || sampled === MAX_SAMPLES) continue
      const id = ((data[at + 2] ?? 0) << 8) | (data[at + 3] ?? 0)
      samples[sampled++] = now - (connection.sentMs[id - 1] ?? now)
    }
    connection.partial = data.subarray(at)
    if (at > 0 && failure === undefined) send(connection, at / ACK_BYTES)
  }

  for (const connection of connections) {
    connection.socket.on('data', data => onData(connection, data))
    connection.socket.on('close', () => {
      failure ??= new Error('the broker closed a connection')
    })
    connection.socket.on('error', error => {
      failure = error
    })
  }
  for (const connection of connections) send(connection, options.window)
  await sleep(options.warmupMs)
  const before = { acked, ms: performance.now(), cpuMs: await cpuMs(options.pid) }
  measuring = true
  await sleep(options.measureMs)
  measuring = false
  const messages = acked - before.acked
  const messagesPerSecond = (messages * 1000) / (performance.now() - before.ms)
  const cpuMicrosPerMessage = (((await cpuMs(options.pid)) - before.cpuMs) * 1000) / messages
  if (failure !== undefined) throw failure
  for (const connection of connections) connection.socket.removeAllListeners('close').destroy()
  const sorted = samples.subarray(0, sampled).sort()
  const at = (q: number): number => sorted[Math.floor(q * (sorted.length - 1))] ?? 0
  return { messagesPerSecond, cpuMicrosPerMessage, publishP50Ms: at(0.5), publishP99Ms: at(0.99) }
}

const options: LoadOptions = JSON.parse(process.argv[2] ?? '{}')
console.log(JSON.stringify(await main(options)))
