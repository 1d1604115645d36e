import type { CborInput, CborValue } from '../../../../common/cbor.ts'
import { decodeCbor, encodeCbor } from '../../../../common/cbor.ts'
import { messageOf, TributaryError } from '../../../../common/errors.ts'
import type {
  Config,
  Entry,
  HardState,
  Message,
  MessageBody,
  Payload,
  Position,
  SnapshotMark,
} from '../../../raft/types.ts'

/**
 * What members of the quorum say to each other, and what they keep, as bytes: CBOR arrays whose places have meanings. A message is its
 * kind, sender, receiver and term, and behind them what is its kind's own.
 */

/** The bytes of a message. */
export function encodeMessage(message: Message): Uint8Array {
  const { t, from, to, term } = message
  return encodeCbor([t, from, to, term, ...bodyFields(message)])
}

function bodyFields(message: Message): CborInput[] {
  switch (message.t) {
    case 'pre-vote':
      return positionFields(message.last)
    case 'vote':
      return [...positionFields(message.last), message.transfer]
    case 'pre-vote-reply':
    case 'vote-reply':
      return [message.granted]
    case 'append':
      return [...positionFields(message.prev), message.commit, message.entries.map(entryFields)]
    case 'append-ok':
      return [message.match]
    case 'append-refused':
      return [message.prevIndex, ...positionFields(message.hint)]
    case 'heartbeat':
      return [...positionFields(message.acked), message.commit]
    case 'snapshot':
      return markFields(message.snapshot)
    case 'heartbeat-reply':
    case 'timeout-now':
      return []
  }
}

function positionFields({ index, term }: Position): CborInput[] {
  return [index, term]
}

function entryFields({ index, term, payload }: Entry): CborInput {
  return [index, term, payloadField(payload)]
}

function payloadField(payload: Payload): CborInput {
  if (payload.t === 'noop') return null
  return payload.t === 'data' ? payload.bytes : configFields(payload.config)
}

function configFields({ voters, learners }: Config): CborInput {
  return [voters, learners]
}

function markFields({ index, term, config }: SnapshotMark): CborInput[] {
  return [index, term, configFields(config)]
}

/** The message of some bytes; payloads are views of them. Throws `protocol_error`. */
export function decodeMessage(bytes: Uint8Array): Message {
  return read(bytes, 'message of the quorum', fields => {
    const t = fields.text()
    const common = { from: fields.text(), to: fields.text(), term: fields.number() }
    return { ...common, ...readBody(t, fields) }
  })
}

function readBody(t: string, fields: Fields): MessageBody {
  switch (t) {
    case 'pre-vote':
      return { t, last: fields.position() }
    case 'vote':
      return { t, last: fields.position(), transfer: fields.flag() }
    case 'pre-vote-reply':
    case 'vote-reply':
      return { t, granted: fields.flag() }
    case 'append':
      return {
        t,
        prev: fields.position(),
        commit: fields.number(),
        entries: fields.list().map(readEntry),
      }
    case 'append-ok':
      return { t, match: fields.number() }
    case 'append-refused':
      return { t, prevIndex: fields.number(), hint: fields.position() }
    case 'heartbeat':
      return { t, acked: fields.position(), commit: fields.number() }
    case 'snapshot':
      return { t, snapshot: readMark(fields) }
    case 'heartbeat-reply':
    case 'timeout-now':
      return { t }
  }
  throw new Error(`kind ${JSON.stringify(t.slice(0, 40))} is unknown`)
}

function readEntry(value: CborValue): Entry {
  const fields = new Fields(value)
  return { index: fields.number(), term: fields.number(), payload: readPayload(fields.any()) }
}

function readPayload(value: CborValue): Payload {
  if (value === null) return { t: 'noop' }
  if (value instanceof Uint8Array) return { t: 'data', bytes: value }
  return { t: 'config', config: readConfig(value) }
}

function readConfig(value: CborValue): Config {
  const fields = new Fields(value)
  return { voters: fields.texts(), learners: fields.texts() }
}

function readMark(fields: Fields): SnapshotMark {
  return { ...fields.position(), config: readConfig(fields.any()) }
}

/** The bytes of members, as an entry of the log holds them: `type` stops versions that know no members. */
export function encodeConfig(config: Config): Uint8Array {
  return encodeCbor({ type: 'members', v: 1, members: configFields(config) })
}

/** The members of some bytes. Throws `corrupt_log`. */
export function decodeConfig(bytes: Uint8Array): Config {
  return stored('members', () => {
    const value = decodeCbor(bytes)
    if (value instanceof Map) return readConfig(value.get('members') ?? null)
    throw new Error('not a map')
  })
}

export function encodeHardState({ term, vote }: HardState): Uint8Array {
  return encodeCbor([term, vote])
}

/** Throws `corrupt_log`. */
export function decodeHardState(bytes: Uint8Array): HardState {
  return stored('term and vote', () => {
    const fields = new Fields(decodeCbor(bytes))
    const term = fields.number()
    const vote = fields.any()
    if (vote !== null && typeof vote !== 'string') throw new Error('the vote is no member')
    return { term, vote }
  })
}

export function encodeMark(mark: SnapshotMark): Uint8Array {
  return encodeCbor(markFields(mark))
}

/** Throws `corrupt_log`. */
export function decodeMark(bytes: Uint8Array): SnapshotMark {
  return stored('a snapshot', () => readMark(new Fields(decodeCbor(bytes))))
}

function stored<T>(what: string, decode: () => T): T {
  try {
    return decode()
  } catch (cause) {
    const why = messageOf(cause)
    throw new TributaryError('corrupt_log', `${what} of the quorum can't be read: ${why}`, { cause })
  }
}

function read<T>(bytes: Uint8Array, what: string, decode: (fields: Fields) => T): T {
  try {
    return decode(new Fields(decodeCbor(bytes)))
  } catch (cause) {
    throw new TributaryError('protocol_error', `no ${what}: ${messageOf(cause)}`, { cause })
  }
}

/** The places of an array, one after another, each of the kind it must be. */
class Fields {
  readonly #values: readonly CborValue[]
  #at = 0

  constructor(value: CborValue) {
    if (!Array.isArray(value)) throw new Error('not an array')
    this.#values = value
  }

  any(): CborValue {
    const value = this.#values[this.#at++]
    if (value === undefined) throw new Error(`field ${this.#at} is missing`)
    return value
  }

  #fail(wanted: string): never {
    throw new Error(`field ${this.#at} is no ${wanted}`)
  }

  text(): string {
    const value = this.any()
    return typeof value === 'string' ? value : this.#fail('text')
  }

  number(): number {
    const value = this.any()
    return typeof value === 'number' ? value : this.#fail('number')
  }

  flag(): boolean {
    const value = this.any()
    return typeof value === 'boolean' ? value : this.#fail('flag')
  }

  list(): readonly CborValue[] {
    const value = this.any()
    return Array.isArray(value) ? value : this.#fail('list')
  }

  texts(): string[] {
    return this.list().map(value => (typeof value === 'string' ? value : this.#fail('list of texts')))
  }

  position(): Position {
    return { index: this.number(), term: this.number() }
  }
}
