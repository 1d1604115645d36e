/** Publishers of the chaos runs: mqtt.js clients, and a bare one that uses packet id 1 for every message. */

import type { Socket } from 'node:net'
import { connect as tcpConnect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import mqtt from 'mqtt'
import { generate, parser } from 'mqtt-packet'
import { publishInOrder } from '../../demo/publisher.ts'
import type { Published } from './verify.ts'

const RECONNECT_MS = 100
const CONNECT_TIMEOUT_MS = 2_000
/** Messages of one mqtt.js publisher without an ack. */
const WINDOW = 100

export interface Publisher {
  /** Publishes `perSecond` messages a second until `stop`; resolves when all are acked or at `giveUp`. */
  run(perSecond: number, stop: AbortSignal, giveUp: AbortSignal): Promise<void>
  /** Another connection with the same client id comes and goes. */
  takeOver(): Promise<void>
  result(): Published
  topic: string
}

interface Tally {
  count: number
  unacked: Set<number>
  cutUnacked: Map<number, number>
}

const newTally = (): Tally => ({ count: 0, unacked: new Set(), cutUnacked: new Map() })

/** Notes every message without an ack when a connection ended. */
function noteCut(tally: Tally): void {
  for (const n of tally.unacked) tally.cutUnacked.set(n, (tally.cutUnacked.get(n) ?? 0) + 1)
}

/** Waits so that message `count` leaves at its time; catches up after a pause. */
async function pace(startedMs: number, count: number, perSecond: number): Promise<void> {
  const waitMs = (count * 1000) / perSecond - (performance.now() - startedMs)
  if (waitMs > 2) await sleep(waitMs)
}

const payloadOf = (n: number, constant: boolean): string => (constant ? 'constant' : String(n))

export interface PublisherOptions {
  client: string
  topic: string
  url: string
  qos: 1 | 2
  constant: boolean
}

/** An mqtt.js publisher with a persistent session. */
export function mqttJsPublisher(options: PublisherOptions): Publisher {
  const tally = newTally()
  const open = (): mqtt.MqttClient =>
    mqtt.connect(options.url, {
      clientId: options.client,
      clean: false,
      protocolVersion: 4,
      reconnectPeriod: RECONNECT_MS,
      connectTimeout: CONNECT_TIMEOUT_MS,
      keepalive: 5,
    })
  return {
    topic: options.topic,
    run: async (perSecond, stop, giveUp) => {
      const client = open()
      client.on('error', () => undefined)
      client.on('close', () => noteCut(tally))
      const startedMs = performance.now()
      while (!stop.aborted) {
        await pace(startedMs, tally.count, perSecond)
        if (tally.unacked.size >= WINDOW) {
          await sleep(5)
          continue
        }
        const n = tally.count++
        tally.unacked.add(n)
        publishInOrder(client, options.topic, payloadOf(n, options.constant), options.qos, giveUp, () => {
          tally.unacked.delete(n)
        })
      }
      while (tally.unacked.size > 0 && !giveUp.aborted) await sleep(10)
      await client.endAsync(true)
    },
    takeOver: async () => {
      const rival = mqtt.connect(options.url, {
        clientId: options.client,
        clean: false,
        protocolVersion: 4,
        reconnectPeriod: 0,
        connectTimeout: CONNECT_TIMEOUT_MS,
      })
      rival.on('error', () => undefined)
      await new Promise<void>(resolve =>
        rival.once('connect', () => resolve()).once('close', () => resolve()),
      )
      rival.end(true)
    },
    result: () => ({ ...options, ...tally }),
  }
}

/** A publisher with one message in flight that always uses packet id 1, and keeps to MQTT 3.1.1 section 4.4 after a cut. */
export function packetIdOnePublisher(options: PublisherOptions): Publisher {
  const tally = newTally()
  return {
    topic: options.topic,
    run: async (perSecond, stop, giveUp) => {
      const startedMs = performance.now()
      let state: 'idle' | 'published' | 'released' = 'idle'
      while (!giveUp.aborted && !(stop.aborted && state === 'idle')) {
        const exchange = await openExchange(options)
        if (exchange === null) {
          await sleep(RECONNECT_MS)
          continue
        }
        let dup = state === 'published'
        while (!giveUp.aborted && !(stop.aborted && state === 'idle')) {
          if (state === 'idle') {
            await pace(startedMs, tally.count, perSecond)
            tally.unacked.add(tally.count++)
            state = 'published'
          }
          if (state === 'published') {
            const answer = await exchange.publish(payloadOf(tally.count - 1, options.constant), dup)
            if (answer === null) break
            dup = false
            state = options.qos === 2 ? 'released' : 'idle'
          }
          if (state === 'released') {
            if ((await exchange.release()) === null) break
            state = 'idle'
          }
          tally.unacked.clear()
        }
        noteCut(tally)
        exchange.close()
      }
    },
    takeOver: () => Promise.resolve(),
    result: () => ({ ...options, ...tally }),
  }
}

interface Exchange {
  /** Resolves with PUBACK or PUBREC, null where the connection ended first. */
  publish(payload: string, dup: boolean): Promise<string | null>
  /** PUBREL; resolves with PUBCOMP or null. */
  release(): Promise<string | null>
  close(): void
}

async function openExchange(options: PublisherOptions): Promise<Exchange | null> {
  const url = new URL(options.url)
  const socket: Socket = tcpConnect(Number(url.port), url.hostname)
  const packets = parser({ protocolVersion: 4 })
  let waiting: ((command: string | null) => void) | null = null
  const settle = (command: string | null): void => {
    const resolve = waiting
    waiting = null
    resolve?.(command)
  }
  packets.on('packet', packet => settle(packet.cmd))
  socket.on('data', data => packets.parse(data))
  socket.on('error', () => undefined)
  let closed = false
  socket.on('close', () => {
    closed = true
    settle(null)
  })
  const ask = (bytes: Buffer): Promise<string | null> => {
    if (closed) return Promise.resolve(null)
    const answer = new Promise<string | null>(resolve => {
      waiting = resolve
    })
    socket.write(bytes)
    return answer
  }
  const connack = await ask(
    generate({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 4,
      clientId: options.client,
      clean: false,
      keepalive: 0,
    }),
  )
  if (connack !== 'connack') {
    socket.destroy()
    return null
  }
  return {
    publish: (payload, dup) =>
      ask(
        generate({
          cmd: 'publish',
          topic: options.topic,
          payload,
          qos: options.qos,
          messageId: 1,
          dup,
          retain: false,
        }),
      ),
    release: () => ask(generate({ cmd: 'pubrel', messageId: 1 })),
    close: () => socket.destroy(),
  }
}
