/**
 * A load generator for MQTT 3.1.1 QoS 1 in a process of its own: raw sockets and prepared packets, so that the
 * broker is what is measured. Arguments: JSON of LoadOptions; prints JSON of LoadResult.
 */

import { once } from 'node:events'
import type { Socket } from 'node:net'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { generate } from 'mqtt-packet'

export interface LoadOptions {
  port: number
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
  publishP50Ms: number
  publishP99Ms: number
}

/** Latency samples kept; every k-th message is sampled so that this is not reached. */
const MAX_SAMPLES = 500_000

interface Connection {
  socket: Socket
  /** Send time by packet id - 1. */
  sentMs: Float64Array
  nextId: number
  /** Bytes of a PUBACK split over two chunks. */
  partial: number
  partialId: number
}

/** Prepared PUBLISH packets by topic; the packet id stands at `idAt`. */
function preparePackets(options: LoadOptions): { bytes: Buffer; idAt: number }[] {
  return Array.from({ length: options.topics }, (_, index) => {
    const topic = `bench/${index}`
    const payload = Buffer.alloc(options.payloadBytes, 0x61)
    const bytes = generate({
      cmd: 'publish',
      topic,
      payload,
      qos: 1,
      messageId: 1,
      dup: false,
      retain: false,
    })
    return { bytes, idAt: bytes.length - options.payloadBytes - 2 }
  })
}

async function open(options: LoadOptions, index: number): Promise<Connection> {
  const socket = connect(options.port, '127.0.0.1')
  await once(socket, 'connect')
  socket.setNoDelay(true)
  socket.write(
    generate({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 4,
      clientId: `load-${process.pid}-${index}`,
      clean: true,
      keepalive: 0,
    }),
  )
  const [connack]: unknown[] = await once(socket, 'data')
  if (!(connack instanceof Buffer) || connack[0] !== 0x20 || connack[3] !== 0)
    throw new Error(`connection ${index} was refused`)
  return { socket, sentMs: new Float64Array(options.window), nextId: 0, partial: 0, partialId: 0 }
}

async function main(options: LoadOptions): Promise<LoadResult> {
  const packets = preparePackets(options)
  const connections: Connection[] = []
  for (let i = 0; i < options.connections; i++) connections.push(await open(options, i))
  let topicAt = 0
  let acked = 0
  let measuring = false
  const samples = new Float64Array(MAX_SAMPLES)
  let sampled = 0
  let failure: Error | undefined

  const send = (connection: Connection, count: number): void => {
    const now = performance.now()
    const parts: Buffer[] = []
    for (let i = 0; i < count; i++) {
      const packet = packets[topicAt++ % packets.length]
      if (packet === undefined) continue
      const bytes = Buffer.from(packet.bytes)
      const id = connection.nextId
      connection.nextId = (id + 1) % options.window
      bytes.writeUInt16BE(id + 1, packet.idAt)
      connection.sentMs[id] = now
      parts.push(bytes)
    }
    connection.socket.write(parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts))
  }

  const onData = (connection: Connection, data: Buffer): void => {
    const now = performance.now()
    let got = 0
    for (let at = 0; at < data.length; at++) {
      const byte = data[at] ?? 0
      if (connection.partial === 2) connection.partialId = byte << 8
      else if (connection.partial === 3) {
        got++
        const sentMs = connection.sentMs[connection.partialId + byte - 1] ?? now
        if (measuring && sampled < MAX_SAMPLES) samples[sampled++] = now - sentMs
      } else if (byte !== (connection.partial === 0 ? 0x40 : 0x02))
        failure = new Error(`unexpected byte ${byte}`)
      connection.partial = (connection.partial + 1) & 3
    }
    acked += got
    if (got > 0 && failure === undefined) send(connection, got)
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
  const before = { acked, ms: performance.now() }
  measuring = true
  await sleep(options.measureMs)
  measuring = false
  const messagesPerSecond = ((acked - before.acked) * 1000) / (performance.now() - before.ms)
  if (failure !== undefined) throw failure
  for (const connection of connections) connection.socket.removeAllListeners('close').destroy()
  const sorted = samples.subarray(0, sampled).sort()
  const at = (q: number): number => sorted[Math.floor(q * (sorted.length - 1))] ?? 0
  return { messagesPerSecond, publishP50Ms: at(0.5), publishP99Ms: at(0.99) }
}

const options: LoadOptions = JSON.parse(process.argv[2] ?? '{}')
console.log(JSON.stringify(await main(options)))
