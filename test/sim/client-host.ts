import type { ConsumedRecord, Producer, TributaryClient } from '../../common/client.ts'
import { connect } from '../../common/client.ts'
import type { Codec } from '../../common/env.ts'
import { isTributaryError, messageOf } from '../../common/errors.ts'
import { FakeDisk } from '../fake-disk.ts'
import { HostClock } from './host-clock.ts'
import type { Network } from './network.ts'
import { SimProcess } from './process.ts'
import type { SdkBook } from './sdk-book.ts'
import type { World } from './world.ts'

/** A process with the SDK: one client, producers and readers that go on as an application would. */

const RETRY_MS = 250
const DELIVERY_TIMEOUT_MS = 20_000

export interface ClientHostOptions {
  host: string
  id: number
  hub: string
  codec: Codec
  book: SdkBook
}

/** How a reader stands; it outlives the process, as positions that an application stores do. */
export interface ReaderState {
  name: string
  topic: string
  /** The next offset, by partition. */
  readonly next: Map<number, number>
  readonly onReset: 'error' | 'earliest'
  /** Told of every record as the application gets it. */
  onRecord(record: ConsumedRecord): void
  /** Told of every reason to start anew. */
  onError(code: string, message: string): void
}

export class ClientHost {
  readonly host: string
  readonly clock: HostClock
  readonly readers: ReaderState[] = []
  readonly #world: World
  readonly #network: Network
  readonly #options: ClientHostOptions
  #process: SimProcess | null = null
  #client: TributaryClient | null = null
  readonly #producers = new Map<string, Producer>()
  #lives = 0
  /** SDK produce calls under way. */
  pending = 0

  constructor(world: World, network: Network, options: ClientHostOptions) {
    this.#world = world
    this.clock = new HostClock(world)
    this.#network = network
    this.#options = options
    this.host = options.host
  }

  get process(): SimProcess | null {
    return this.#process
  }

  start(): void {
    if (this.#process !== null) return
    const { host, id, codec, hub } = this.#options
    const process = new SimProcess(this.#world, {
      name: `client ${host}`,
      id,
      host,
      disk: new FakeDisk({ rng: this.#world.rng }),
      clock: this.clock,
      slowness: () => 1,
      codec,
      dial: (from, url, timeoutMs) => this.#network.dial(from, url, timeoutMs),
    })
    this.#process = process
    this.#lives++
    this.pending = 0
    process.guard(() => {
      this.#client = connect({ hub, env: process.env })
      for (const reader of this.readers) void this.#read(process, this.#client, reader)
    })
  }

  kill(): void {
    if (this.#process === null) return
    this.#process.kill()
    this.#network.ended(this.#process)
    this.#process = null
    this.#client = null
    this.#producers.clear()
  }

  /** Its connections break. */
  reconnect(): void {
    this.#network.cutAll((from, to) => from === this.host || to === this.host)
  }

  addReader(reader: ReaderState): void {
    this.readers.push(reader)
    const process = this.#process
    const client = this.#client
    if (process !== null && client !== null) process.guard(() => void this.#read(process, client, reader))
  }

  /** Sends `count` records in one call, to one partition or where the SDK likes. */
  produce(topic: string, count: number, bytes: number, partition: number | null, acks: 0 | 1 | 'all'): void {
    const process = this.#process
    const client = this.#client
    if (process === null || client === null) return
    const { book } = this.#options
    // A producer of its own for each life of the process: its records form one sequence.
    const writer = `${this.host}.${this.#lives}.${acks}`
    const key = `${topic} ${acks}`
    process.guard(() => {
      let producer = this.#producers.get(key)
      if (producer === undefined) {
        producer = client.producer(topic, { acks, lingerMs: 2, deliveryTimeoutMs: DELIVERY_TIMEOUT_MS })
        this.#producers.set(key, producer)
      }
      const records = Array.from({ length: count }, () => book.send(writer, topic, acks, this.#world.nowMs()))
      const inputs = records.map(({ id }) => ({
        value: id.padEnd(bytes),
        ...(partition === null ? {} : { partition }),
      }))
      this.pending++
      const ended = (): void => {
        if (process.isAlive) this.pending--
      }
      producer.send(inputs).then(
        places => {
          ended()
          for (const [index, record] of records.entries()) {
            record.outcome = 'acked'
            record.partition = places[index]?.partition ?? -1
            record.offset = places[index]?.offset ?? -1
          }
          this.#world.count('client acks', records.length)
          if (acks !== 'all') this.#world.count(`client acks=${acks}`, records.length)
        },
        (error: unknown) => {
          ended()
          for (const record of records) record.outcome = 'failed'
          this.#failed(key, acks, error)
        },
      )
    })
  }

  #failed(key: string, acks: 0 | 1 | 'all', error: unknown): void {
    const code = isTributaryError(error) ? error.code : 'unknown'
    this.#world.count(`client produce ${code}`)
    this.#world.say(() => `${this.host} could not produce: ${code}: ${messageOf(error)}`)
    if (code === 'topic_deleted') this.#producers.delete(key)
    const isExpected = [
      'topic_deleted',
      'unknown_topic',
      'timeout',
      'not_available',
      'closed',
      'record_too_large',
    ]
    // What the leader alone had acked may be lost with it, and then what follows does not follow.
    if (acks !== 'all' && code === 'out_of_order_sequence') return
    if (!isExpected.includes(code)) this.#world.fail(error)
  }

  async #read(process: SimProcess, client: TributaryClient | null, reader: ReaderState): Promise<void> {
    const { clock } = process.env
    while (client !== null && process === this.#process) {
      try {
        // Partitions never read before from their start.
        const from = new Map<number, number | 'earliest'>(
          Array.from({ length: 64 }, (_, index) => [index, 'earliest']),
        )
        for (const [partition, next] of reader.next) from.set(partition, next)
        for await (const records of client.consumeBatches(reader.topic, { from, onReset: reader.onReset })) {
          for (const record of records) {
            reader.next.set(record.partition, record.offset + 1)
            reader.onRecord(record)
          }
        }
      } catch (error) {
        if (!isTributaryError(error)) {
          this.#world.fail(error)
          return
        }
        reader.onError(error.code, error.message)
      }
      await new Promise<void>(resolve => clock.setTimer(resolve, RETRY_MS))
    }
  }
}
