import type { Packet } from 'mqtt-packet'
import { parser } from 'mqtt-packet'
import { afterEach, expect, test } from 'vitest'
import type { Rng } from '../../../common/env.ts'
import { seededRng } from '../../rng.ts'
import { FakeIngest } from './fake-ingest.ts'
import type { Edge, RawClient } from './harness.ts'
import { connectPacket, dial, startEdge } from './harness.ts'

/** Messages of a run; packet ids are few, so that they are used again all the time. */
const MESSAGES = 60
const WINDOW = 5

interface Outstanding {
  packetId: number
  payload: string
  released: boolean
}

/** A publisher that does QoS 2 by the book (MQTT 3.1.1 sections 4.3.3 and 4.4) over connections that break. */
class Publisher {
  readonly #payloadOf: (index: number) => string
  readonly #outstanding: Outstanding[] = []
  #client: RawClient | null = null
  #connected = false
  sent = 0
  completed = 0

  constructor(payloadOf: (index: number) => string) {
    this.#payloadOf = payloadOf
  }

  /** Connects, without closing the connection before: the broker must take it over. */
  async connect(port: number): Promise<void> {
    const client = await dial(port)
    this.#client = client
    this.#connected = false
    const packets = parser()
    packets.on('packet', packet => this.#receive(client, packet))
    client.socket.on('data', chunk => packets.parse(chunk))
    client.send(connectPacket('publisher', { clean: false }))
  }

  cut(): void {
    this.#client?.drop()
    this.#client = null
  }

  #receive(client: RawClient, packet: Packet): void {
    if (client !== this.#client) return
    if (packet.cmd === 'connack') {
      this.#connected = true
      for (const message of this.#outstanding) this.#send(message, true)
    } else if (packet.cmd === 'pubrec') {
      const message = this.#outstanding.find(({ packetId }) => packetId === packet.messageId)
      if (message === undefined) return
      message.released = true
      this.#send(message, false)
    } else if (packet.cmd === 'pubcomp') {
      const at = this.#outstanding.findIndex(({ packetId }) => packetId === packet.messageId)
      if (at === -1) return
      this.#outstanding.splice(at, 1)
      this.completed++
    }
  }

  /** Publishes the next message where the window has room. */
  publish(): void {
    if (!this.#connected || this.sent === MESSAGES || this.#outstanding.length === WINDOW) return
    let packetId = 1
    while (this.#outstanding.some(other => other.packetId === packetId)) packetId++
    const message = { packetId, payload: this.#payloadOf(this.sent++), released: false }
    this.#outstanding.push(message)
    this.#send(message, false)
  }

  #send({ packetId, payload, released }: Outstanding, dup: boolean): void {
    if (released) this.#client?.send({ cmd: 'pubrel', messageId: packetId })
    else this.#client?.publish('t', payload, 2, packetId, { dup })
  }
}

let edge: Edge | undefined
afterEach(async () => {
  await edge?.broker.close()
})

/** Publishes all messages through cuts, takeovers and crashes of the edge; returns what is stored. */
async function run(rng: Rng, payloadOf: (index: number) => string): Promise<string[]> {
  let running = await startEdge()
  edge = running
  const publisher = new Publisher(payloadOf)
  await publisher.connect(running.port)
  running.ingest.commits = 'held'
  for (let step = 0; publisher.completed < MESSAGES; step++) {
    // Misfortune ends, or nothing would ever complete.
    const chance = step < 1_500 ? rng.below(100) : 50
    if (chance < 2) {
      const disk = running.ingest.crash()
      const old = running
      running = await startEdge({ ingest: new FakeIngest(disk) })
      edge = running
      running.ingest.commits = 'held'
      publisher.cut()
      old.broker.close().catch(() => {})
      await publisher.connect(running.port)
    } else if (chance < 5) {
      publisher.cut()
      await publisher.connect(running.port)
    } else if (chance < 7) {
      await publisher.connect(running.port)
    } else if (chance < 50) {
      publisher.publish()
    } else {
      running.ingest.commit(1 + rng.below(4))
    }
    publisher.publish()
    if (step >= 1_500) running.ingest.commit()
    if (step > 20_000) throw new Error(`stuck after ${publisher.completed} of ${MESSAGES}`)
    await new Promise(resolve => setImmediate(resolve))
  }
  return running.ingest.payloads()
}

const all = Array.from({ length: MESSAGES }, (_, index) => index)

test('QoS 2 is exactly once and in order through cuts, takeovers and crashes', async () => {
  for (let round = 0; round < 8; round++) {
    const seed = Math.floor(Math.random() * 2 ** 32)
    const stored = await run(seededRng(seed), index => `m${index}`)
    expect(stored, `seed ${seed}`).toEqual(all.map(index => `m${index}`))
    await edge?.broker.close()
  }
})

test('so it is where all messages are the same', async () => {
  for (let round = 0; round < 4; round++) {
    const seed = Math.floor(Math.random() * 2 ** 32)
    const stored = await run(seededRng(seed), () => 'same')
    expect(stored.length, `seed ${seed}`).toBe(MESSAGES)
    await edge?.broker.close()
  }
})
