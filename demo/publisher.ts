/** A device: one MQTT client (mqtt.js) that publishes its readings in order and keeps them until they are acked. */

import type { MqttClient } from 'mqtt'
import mqtt from 'mqtt'
import type { Device } from './csv.ts'
import type { Ledger } from './ledger.ts'

/** Publishes of one device that may wait for their ack: QoS 2 takes two commits each, so throughput is the window over two of them. */
const WINDOW = 400
/** The same where connections will break: mqtt.js resends what was not acked one by one. */
const WINDOW_BEFORE_KILLS = 100
const RECONNECT_MS = 200

/** The MQTT topic of a device's readings. */
export const topicOf = (device: string): string => `sensors/${device}`

/** Payload of a reading: `n` is its place in its device's order, `sentMs` when it was published. */
export interface Payload {
  n: number
  timeMs: number
  value: number
  sentMs: number
}

/** Publishes all of a device's readings; resolves when every one is acked (at QoS 0: written). */
export async function publishDevice(options: {
  device: Device
  url: string
  qos: 0 | 1 | 2
  ledger: Ledger
  /** The edge will be killed meanwhile. */
  kill: boolean
  /** Ends the wait for acks that never come. */
  giveUp: AbortSignal
}): Promise<void> {
  const { device, ledger, qos } = options
  const client = mqtt.connect(options.url, {
    clientId: `demo-${device.name.replaceAll('/', '-')}`,
    clean: false,
    protocolVersion: 4,
    reconnectPeriod: RECONNECT_MS,
    queueQoSZero: true,
  })
  // mqtt.js reconnects by itself; a refused connection while the edge is down is expected.
  client.on('error', () => undefined)
  const stop = Promise.withResolvers<void>()
  options.giveUp.addEventListener('abort', () => stop.resolve(), { once: true })
  const window = options.kill ? WINDOW_BEFORE_KILLS : WINDOW
  // What is published before the first connection counts as stored by an earlier one, and is sent one by one.
  const connected = new Promise<void>(resolve => client.once('connect', () => resolve()))
  await Promise.race([connected, stop.promise])
  let waiting = 0
  let room = Promise.withResolvers<void>()

  for await (const reading of device.readings) {
    while (waiting >= window && !options.giveUp.aborted) await Promise.race([room.promise, stop.promise])
    if (options.giveUp.aborted) break
    const n = ledger.published(device.name, reading.value)
    const payload: Payload = { n, timeMs: reading.timeMs, value: reading.value, sentMs: Date.now() }
    waiting++
    publishInOrder(client, topicOf(device.name), JSON.stringify(payload), qos, options.giveUp, () => {
      waiting--
      if (qos > 0) ledger.acked(device.name, n)
      room.resolve()
      room = Promise.withResolvers()
    })
  }
  while (waiting > 0 && !options.giveUp.aborted) await Promise.race([room.promise, stop.promise])
  await client.endAsync(true)
}

/**
 * Publishes until it is acked. mqtt.js keeps what it sent over a reconnect by itself, but gives back with an error what
 * waited behind its own resending when the connection broke again. That was never sent: it goes out again, and in order,
 * because all of it comes back in one turn and nothing else is published before the microtasks of that turn.
 */
export function publishInOrder(
  client: MqttClient,
  topic: string,
  payload: string,
  qos: 0 | 1 | 2,
  giveUp: AbortSignal,
  acked: () => void,
): void {
  client.publish(topic, payload, { qos }, error => {
    if (!error) acked()
    else if (!giveUp.aborted) queueMicrotask(() => publishInOrder(client, topic, payload, qos, giveUp, acked))
  })
}
