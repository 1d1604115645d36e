/**
 * The Duplex between a socket and aedes. It frames packets itself and hands them over one by one, so that nothing
 * oversize or malformed is ever buffered, counts publishes in flight and stops reading at a bound, bounds what a slow client
 * lets pile up, and gathers acks into one write a turn. aedes never reads from it: its own reading has neither
 * a packet limit nor a window, and waits for a whole chunk to be durable before it reads the next.
 *
 * Keepalive and CONNECT timeout are kept by the broker's sweep with what the guard knows: received bytes count as
 * activity, and time while we pause the socket does not count, or a slow disk would become a storm of wills.
 */

import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import type { Clock } from '../../common/env.ts'
import type { InternalClient } from './aedes-broker.ts'
import { Outbox } from './outbox.ts'
import type { ConnectHeader, InboundPublish, TopicMemory } from './packets.ts'
import {
  checkFilters,
  ProtocolViolation,
  readAck,
  readConnect,
  readPublish,
  readRemainingLength,
  TYPE,
} from './packets.ts'
import type { MqttCounters } from './stats.ts'
import type { StoredWill, Will } from './wills.ts'

/** Output over this makes senders that can wait (retained messages, queues) wait. */
const SOFT_OUTGOING_BYTES = 256 * 1024
/** Output over this, or two packets if those are larger, is a subscriber that does not keep up: it is dropped. */
const MAX_OUTGOING_BYTES = 2 * 1024 * 1024
/** How long a closing connection may take to read what it was sent last. */
const LINGER_MS = 2_000

/** What the guards of one broker share. */
export interface GuardHost {
  clock: Clock
  maxPacketBytes: number
  /** Publishes of one connection taken and not yet durable, at which its socket is paused. */
  maxInflight: number
  counters: MqttCounters
  /** Asks for `flush` at the end of this turn. */
  flushSoon(guard: Guard): void
  /** Takes a PUBLISH; `completed` follows, and an ack where one is due. */
  publish(guard: Guard, client: InternalClient, packet: InboundPublish): void
  /** Takes a PUBREL; PUBCOMP follows. */
  release(guard: Guard, client: InternalClient, packetId: number): void
  /** Decides on a CONNECT: null lets it through, bytes are the CONNACK of the refusal. */
  admit(guard: Guard, connect: ConnectHeader): Buffer | null
  /** A packet that the client must not send, or too large; for logs. */
  violated(guard: Guard, reason: string): void
}

/** `fresh`: before CONNECT; `connecting`: until CONNACK; `closing`: input is ignored. */
type State = 'fresh' | 'connecting' | 'open' | 'closing'

export class Guard extends Duplex {
  /** Address of the peer, for logs. */
  readonly remote: string
  /** Set by the broker right after aedes took the guard. */
  client: InternalClient | null = null
  /** Silence after which the connection is given up, 1.5 x what CONNECT names; 0: none. */
  keepaliveMs = 0
  /** A DISCONNECT came: the will must not be published (MQTT-3.14.4-3). */
  disconnected = false
  /** CONNACK with return code 0 was sent. */
  accepted = false
  /** Publishes whose ack is withheld because their topic is full. */
  withheld = 0
  /** The will that CONNECT named. */
  connectWill: Will | null = null
  /** The same once it is on its way into the session log, before CONNACK. */
  will: StoredWill | null = null
  readonly createdAtMs: number
  /** Monotonic time of the last byte received or the end of the last pause. */
  activeAtMs: number

  readonly #socket: Socket
  readonly #host: GuardHost
  readonly #outbox: Outbox
  readonly #topics: TopicMemory = { bytes: Buffer.alloc(0), topic: '' }
  #state: State = 'fresh'
  #inflight = 0
  #chunks: Buffer[] = []
  #chunkBytes = 0
  /** Bytes that must be there before parsing can go on. */
  #neededBytes = 2
  #paused = false
  #stopped = false
  #ended = false
  #feeding = false
  #wantsDrain = false
  #flushAsked = false

  constructor(socket: Socket, host: GuardHost) {
    super({ emitClose: true })
    this.#socket = socket
    this.#host = host
    this.#outbox = new Outbox(socket)
    this.remote = `${socket.remoteAddress ?? '?'}:${socket.remotePort ?? 0}`
    this.createdAtMs = host.clock.monotonicMs()
    this.activeAtMs = this.createdAtMs
    socket.on('data', (chunk: Buffer) => this.#receive(chunk))
    socket.on('end', () => this.#end())
    socket.on('drain', () => this.#drained())
    socket.on('error', () => this.destroy())
    socket.on('close', () => this.destroy())
  }

  get fresh(): boolean {
    return this.#state === 'fresh'
  }

  /** Reading is stopped, so silence is not the client's. */
  get paused(): boolean {
    return this.#paused
  }

  get inflight(): number {
    return this.#inflight
  }

  /** Takes keepalive and will from CONNECT. */
  connecting(keepaliveSeconds: number, will: Will | null): void {
    // MQTT-3.1.2-24
    this.keepaliveMs = keepaliveSeconds * 1_500
    this.connectWill = will
  }

  /** Reads nothing more; what was taken goes on. */
  stopReading(): void {
    this.#stopped = true
    this.#throttle()
  }

  /** CONNACK is on its way: packets may flow. */
  open(): void {
    if (this.#state === 'connecting') this.#state = 'open'
    this.#resume()
  }

  /** A publish left the window: it is durable, withheld or failed. */
  completed(): void {
    this.#inflight--
    // Later, with the flush: acks of this commit leave before more is read.
    if (this.#paused && this.#inflight <= this.#host.maxInflight / 2) this.#askFlush()
  }

  // ------------------------------------------------------------------------------------------------ input

  #receive(chunk: Buffer): void {
    if (this.#state === 'closing') return
    this.activeAtMs = this.#host.clock.monotonicMs()
    this.#chunks.push(chunk)
    this.#chunkBytes += chunk.length
    this.#feed()
  }

  #end(): void {
    this.#ended = true
    if (!this.#blocked()) this.destroy()
  }

  #blocked(): boolean {
    return this.#stopped || this.#state === 'connecting' || this.#inflight >= this.#host.maxInflight
  }

  #resume(): void {
    // Within #feed the loop itself sees that it may go on.
    if (this.#feeding || this.#state === 'closing') return
    this.#feed()
  }

  #feed(): void {
    this.#feeding = true
    try {
      while (this.#chunkBytes >= this.#neededBytes && !this.#blocked() && this.#state !== 'closing') {
        const bytes = this.#joined()
        const end = this.#dispatchAll(bytes)
        this.#chunks = end === bytes.length ? [] : [bytes.subarray(end)]
        this.#chunkBytes = bytes.length - end
      }
    } catch (error) {
      this.#refuse(error)
    } finally {
      this.#feeding = false
    }
    this.#throttle()
  }

  /** Stops or restarts the socket as the window says. */
  #throttle(): void {
    if (this.#state === 'closing') return
    if (this.#blocked()) {
      if (!this.#paused) {
        this.#paused = true
        if (this.#state === 'open') this.#host.counters.pauses++
        this.#socket.pause()
      }
      return
    }
    if (this.#paused) {
      this.#paused = false
      this.activeAtMs = this.#host.clock.monotonicMs()
      this.#socket.resume()
    }
    if (this.#ended) this.destroy()
  }

  #joined(): Buffer {
    const only = this.#chunks[0]
    if (this.#chunks.length === 1 && only !== undefined) return only
    const joined = Buffer.concat(this.#chunks, this.#chunkBytes)
    this.#chunks = [joined]
    return joined
  }

  /** Hands over whole packets until bytes or window run out; returns where the rest starts. */
  #dispatchAll(bytes: Buffer): number {
    let at = 0
    while (!this.#blocked() && this.#state !== 'closing') {
      this.#neededBytes = 2
      if (at + 2 > bytes.length) return at
      const length = readRemainingLength(bytes, at + 1)
      if (length === 'malformed') throw new ProtocolViolation('a remaining length of more than four bytes')
      if (length === 'incomplete') {
        this.#neededBytes = bytes.length - at + 1
        return at
      }
      const sizeBytes = length.end - at + length.value
      if (sizeBytes > this.#host.maxPacketBytes) {
        this.#host.counters.oversize++
        throw new ProtocolViolation(
          `a packet of ${sizeBytes} bytes where mqtt.maxPacketBytes is ${this.#host.maxPacketBytes}`,
        )
      }
      if (at + sizeBytes > bytes.length) {
        this.#neededBytes = sizeBytes
        return at
      }
      this.#dispatch(bytes, at, length.end, at + sizeBytes)
      at += sizeBytes
    }
    return at
  }

  #dispatch(bytes: Buffer, start: number, bodyStart: number, end: number): void {
    const first = bytes.readUInt8(start)
    const type = first >> 4
    const flags = first & 15
    const client = this.client
    if (client === null) return
    if (type !== TYPE.connect && this.#state !== 'open') {
      throw new ProtocolViolation('the first packet is no CONNECT') // MQTT-3.1.0-1
    }
    if (type === TYPE.publish) {
      const packet = readPublish(flags, bytes, bodyStart, end, this.#topics)
      this.#inflight++
      this.#host.counters.published[packet.qos]++
      this.#host.publish(this, client, packet)
      return
    }
    this.#control(client, type, flags, bytes.subarray(bodyStart, end), bytes.subarray(start, end))
  }

  /** Any packet but PUBLISH: what follows its fixed header, and all of it. */
  #control(client: InternalClient, type: number, flags: number, body: Buffer, packet: Buffer): void {
    switch (type) {
      case TYPE.puback:
      case TYPE.pubrec:
      case TYPE.pubcomp:
        client._parser.emit('packet', readAck(type, flags, body))
        return
      case TYPE.pubrel:
        this.#host.release(this, client, readAck(type, flags, body).messageId)
        return
      case TYPE.subscribe:
      case TYPE.unsubscribe:
        checkFilters(type, flags, body)
        client._parser.parse(packet)
        return
      case TYPE.connect:
        this.#connect(client, flags, body, packet)
        return
      case TYPE.pingreq:
      case TYPE.disconnect:
        // MQTT-3.14.1-1
        if (flags !== 0 || body.length > 0) throw new ProtocolViolation('PINGREQ or DISCONNECT with content')
        if (type === TYPE.disconnect) this.disconnected = true
        client._parser.emit('packet', { cmd: type === TYPE.pingreq ? 'pingreq' : 'disconnect', length: 0 })
        return
      default:
        throw new ProtocolViolation(`a packet of type ${type}, which clients must not send`)
    }
  }

  #connect(client: InternalClient, flags: number, body: Buffer, packet: Buffer): void {
    // MQTT-3.1.0-2
    if (this.#state !== 'fresh') throw new ProtocolViolation('a second CONNECT')
    const connect = readConnect(flags, body)
    const refused = this.#host.admit(this, connect)
    if (refused === null) {
      this.#state = 'connecting'
      // As aedes' own reading leaves it before the first packet.
      client._parsingBatch = 0
      client._parser.parse(packet)
      return
    }
    this.#outbox.write(refused)
    this.destroy()
  }

  #refuse(error: unknown): void {
    if (error instanceof ProtocolViolation) {
      this.#host.counters.protocolViolations++
      this.#host.violated(this, error.message)
      this.destroy(error)
      return
    }
    this.destroy(error instanceof Error ? error : new Error(String(error)))
  }

  // ----------------------------------------------------------------------------------------------- output

  /** Takes what aedes sends. False above the soft bound, where retained messages and queues wait for `drain`. */
  override write(chunk: unknown): boolean {
    if (this.destroyed || !(typeof chunk === 'string' || chunk instanceof Uint8Array)) return true
    this.#outbox.write(chunk)
    return this.#written()
  }

  /** Sends PUBACK, PUBREC or PUBCOMP; `first` of packets.ts' ACK. */
  acknowledge(first: number, packetId: number): void {
    if (this.destroyed) return
    this.#outbox.writeAck(first, packetId)
    this.#written()
  }

  #written(): boolean {
    if (this.#outbox.pendingBytes() >= SOFT_OUTGOING_BYTES) this.flush()
    else this.#askFlush()
    const bufferedBytes = this.#outbox.bufferedBytes()
    if (bufferedBytes <= SOFT_OUTGOING_BYTES) return true
    if (bufferedBytes > Math.max(MAX_OUTGOING_BYTES, 2 * this.#host.maxPacketBytes)) {
      this.#host.counters.slowSubscribers++
      this.#host.violated(this, `it does not read: ${bufferedBytes} bytes wait for it`)
      this.destroy(new Error('the client does not read what it is sent'))
      return true
    }
    this.#wantsDrain = true
    return false
  }

  /** aedes corks for each packet; the outbox gathers a whole turn instead. */
  override cork(): void {}
  override uncork(): void {}

  #askFlush(): void {
    if (this.#flushAsked) return
    this.#flushAsked = true
    this.#host.flushSoon(this)
  }

  /** Sends what gathered, and reads on where the window has room again. */
  flush(): void {
    this.#flushAsked = false
    this.#outbox.flush()
    if (this.#paused) this.#resume()
    if (this.#wantsDrain && this.#outbox.bufferedBytes() === 0) this.#drained()
  }

  #drained(): void {
    if (!this.#wantsDrain || this.destroyed) return
    this.#wantsDrain = false
    this.emit('drain')
  }

  // ---------------------------------------------------------------------------------------------- closing

  override _read(): void {}

  /** Ends the socket after what is already written, unless the peer does not read. */
  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#state = 'closing'
    this.#chunks = []
    this.#chunkBytes = 0
    const socket = this.#socket
    this.#outbox.flush()
    if (error !== null && socket.writableLength > 0) {
      socket.destroy()
    } else {
      socket.end()
      // Unread input would turn our close into a reset, and the peer might lose the CONNACK that says why.
      socket.resume()
      const linger = this.#host.clock.setTimer(() => socket.destroy(), LINGER_MS)
      socket.once('close', () => linger.cancel())
    }
    callback(error)
  }
}
