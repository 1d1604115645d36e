/** A broker on a FakeIngest, and a raw MQTT client whose bytes are the transcript. */

import { once } from 'node:events'
import type { Socket } from 'node:net'
import { connect } from 'node:net'
import type { Packet } from 'mqtt-packet'
import { generate, parser } from 'mqtt-packet'
import type { EdgeMqttConfig } from '../../../common/config-edge.ts'
import { EDGE_DEFAULTS } from '../../../common/config-edge.ts'
import type { Clock, Env } from '../../../common/env.ts'
import type { Broker } from '../../../edge/mqtt/broker.ts'
import { createBroker } from '../../../edge/mqtt/broker.ts'
import type { Logger } from '../../../edge/mqtt/logger.ts'
import type { Router } from '../../../edge/router.ts'
import { createRouter } from '../../../edge/router.ts'
import { FakeIngest } from './fake-ingest.ts'

/** The real clock plus `skewMs`, by which a test jumps ahead. */
export interface TestClock extends Clock {
  skewMs: number
}

export function testClock(): TestClock {
  return {
    skewMs: 0,
    nowMs: () => Date.now(),
    monotonicMs() {
      return performance.now() + this.skewMs
    },
    setTimer: (callback, delayMs) => {
      const timer = setTimeout(callback, Math.min(delayMs, 2_000)).unref()
      return { cancel: () => clearTimeout(timer) }
    },
    soon: callback => {
      setImmediate(callback)
    },
  }
}

const absent = () => Promise.reject(new Error('not in this test'))

function testEnv(clock: Clock, files: Record<string, Uint8Array> = {}): Env {
  return {
    clock,
    rng: {
      float: () => Math.random(),
      below: bound => Math.floor(Math.random() * bound),
      bytes: count => Uint8Array.from({ length: count }, () => Math.floor(Math.random() * 256)),
    },
    disk: {
      open: absent,
      mkdir: absent,
      list: absent,
      exists: absent,
      rename: absent,
      remove: absent,
      syncDir: absent,
      replaceFile: absent,
      space: absent,
      lock: absent,
      readFile: async path => {
        const content = files[path]
        if (content === undefined) throw new Error(`ENOENT: ${path}`)
        return content
      },
    },
    net: { dial: absent },
    codec: { compress: absent, decompress: absent },
  }
}

export interface TestLog extends Logger {
  lines: string[]
}

export function testLog(): TestLog {
  const lines: string[] = []
  const take = (facts: object, message: string) => {
    lines.push(`${message} ${JSON.stringify(facts)}`)
  }
  return { lines, debug: () => {}, info: take, warn: take }
}

export interface Edge {
  broker: Broker
  ingest: FakeIngest
  clock: TestClock
  log: TestLog
  port: number
}

export interface EdgeOptions {
  ingest?: FakeIngest
  config?: Partial<EdgeMqttConfig>
  files?: Record<string, Uint8Array>
  router?: Router
}

export async function startEdge(options: EdgeOptions = {}): Promise<Edge> {
  const ingest = options.ingest ?? new FakeIngest()
  const clock = testClock()
  const log = testLog()
  const broker = await createBroker({
    env: testEnv(clock, options.files),
    config: { ...EDGE_DEFAULTS.mqtt, listen: '127.0.0.1:0', ...options.config },
    edgeId: 'edge-1',
    ingest,
    router: options.router ?? createRouter({ edgeId: 'edge-1', rules: [], topics: {} }),
    log,
  })
  return { broker, ingest, clock, log, port: broker.mqttAddress?.port ?? 0 }
}

/** Waits until `condition` holds; fails after `limitMs` naming what was waited for. */
export async function until(what: string, condition: () => boolean, limitMs = 5_000): Promise<void> {
  const startMs = performance.now()
  while (!condition()) {
    if (performance.now() - startMs > limitMs) throw new Error(`gave up waiting for ${what}`)
    await new Promise(resolve => setTimeout(resolve, 2))
  }
}

/** Long enough for anything that must not happen to have happened: several turns with I/O. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise(resolve => setImmediate(resolve))
  await new Promise(resolve => setTimeout(resolve, 10))
}

export class RawClient {
  readonly socket: Socket
  /** What came in, one line a packet: `connack 0`, `puback 7`, `publish t 1 payload`. */
  readonly received: string[] = []
  readonly bytes: Buffer[] = []
  closed = false
  readonly #parser = parser()

  constructor(socket: Socket) {
    this.socket = socket
    this.#parser.on('packet', (packet: Packet) => this.received.push(describePacket(packet)))
    this.#parser.on('error', (error: unknown) => this.received.push(`unreadable ${String(error)}`))
    socket.on('data', chunk => {
      this.bytes.push(Buffer.from(chunk))
      this.#parser.parse(chunk)
    })
    socket.on('error', () => {})
    socket.on('close', () => {
      this.closed = true
    })
  }

  send(...packets: Packet[]): void {
    this.socket.write(Buffer.concat(packets.map(packet => generate(packet))))
  }

  raw(...bytes: number[]): void {
    this.socket.write(Buffer.from(bytes))
  }

  publish(
    topic: string,
    payload: string,
    qos: 0 | 1 | 2,
    messageId = 0,
    flags: { retain?: boolean; dup?: boolean } = {},
  ): void {
    const { retain = false, dup = false } = flags
    this.send({
      cmd: 'publish',
      topic,
      payload,
      qos,
      retain,
      dup,
      ...(qos > 0 && { messageId }),
    })
  }

  subscribe(filter: string, qos: 0 | 1 | 2, messageId = 1): void {
    this.send({ cmd: 'subscribe', messageId, subscriptions: [{ topic: filter, qos }] })
  }

  async expect(count: number): Promise<string[]> {
    await until(`${count} packets, got ${JSON.stringify(this.received)}`, () => this.received.length >= count)
    return this.received
  }

  async expectClosed(): Promise<void> {
    await until('the connection to close', () => this.closed)
  }

  /** Ends the connection without DISCONNECT. */
  drop(): void {
    this.socket.destroy()
  }
}

function describePacket(packet: Packet): string {
  switch (packet.cmd) {
    case 'connack':
      return `connack ${packet.returnCode ?? packet.reasonCode}${packet.sessionPresent ? ' present' : ''}`
    case 'publish': {
      const flags = `${packet.dup ? ' dup' : ''}${packet.retain ? ' retain' : ''}`
      return `publish ${packet.topic} ${packet.qos}${flags} ${packet.payload.toString()}`
    }
    case 'suback':
      return `suback ${packet.messageId} ${packet.granted.join()}`
    case 'pingresp':
      return 'pingresp'
    default:
      return `${packet.cmd} ${packet.messageId}`
  }
}

export interface ConnectOptions {
  clean?: boolean
  keepalive?: number
  will?: { topic: string; payload: string; qos?: 0 | 1 | 2; retain?: boolean }
  username?: string
  password?: string
}

export async function dial(port: number): Promise<RawClient> {
  const socket = connect({ host: '127.0.0.1', port, noDelay: true })
  const client = new RawClient(socket)
  await once(socket, 'connect')
  return client
}

/** Connects and waits for CONNACK. */
export async function connectRaw(
  port: number,
  clientId: string,
  options: ConnectOptions = {},
): Promise<RawClient> {
  const client = await dial(port)
  client.send(connectPacket(clientId, options))
  await client.expect(1)
  return client
}

export function connectPacket(clientId: string, options: ConnectOptions = {}): Packet {
  const { clean = true, keepalive = 0, will, username, password } = options
  return {
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: 4,
    clientId,
    clean,
    keepalive,
    ...(will !== undefined && {
      will: {
        topic: will.topic,
        payload: Buffer.from(will.payload),
        qos: will.qos ?? 0,
        retain: will.retain ?? false,
      },
    }),
    ...(username !== undefined && { username }),
    ...(password !== undefined && { password: Buffer.from(password) }),
  }
}
