import { z } from 'zod'
import { assert } from '../../common/assert.ts'
import type { CborInput, CborValue } from '../../common/cbor.ts'
import { decodeCbor, encodeCbor } from '../../common/cbor.ts'
import { messageOf, TributaryError } from '../../common/errors.ts'
import type { PartitionChanged } from './partition-records.ts'
import { packState, partitionsChanged, unpackStates } from './partition-records.ts'

/**
 * What the controller's image is made of. A record says what became so, never what was asked for, so that replaying
 * needs no rules. A value in the metadata log is a CBOR map whose `type` names its shape and `v` the version of that
 * shape, or an array of such maps: the records of one request, which become so together. What a newer node wrote stops an
 * older one, since an image with holes would be acted upon.
 */

/** Format of the records as a whole; the `cluster` record carries it. */
export const METADATA_FORMAT = 1

const count = z.int().min(0)
const nullableCount = count.nullable()
const id = z.string().min(1)
const nodeId = z.int().min(1)

const topicConfig = z.object({
  retentionMs: nullableCount,
  retentionBytes: nullableCount,
  segmentBytes: count,
  maxRecordBytes: count,
  minInsyncReplicas: nullableCount,
  uncleanLeaderElection: z.boolean(),
})

const fork = z.object({ presented: count, atMs: z.int() })
const alarm = z.object({
  kind: z.enum(['fork', 'clone', 'hub-rollback']),
  atMs: z.int(),
  message: z.string(),
})

/** See sessions.ts. */
const session = z.object({ confirmed: count, grantedFrom: count, newest: count })

const recordSchema = z.discriminatedUnion('type', [
  /** First record of a cluster. */
  z.object({ type: z.literal('cluster'), clusterId: id, format: z.int(), atMs: z.int() }),
  z.object({
    type: z.literal('topic_created'),
    topicId: id,
    name: id,
    partitions: z.int().min(1),
    replication: nullableCount,
    internal: z.boolean(),
    config: topicConfig,
    atMs: z.int(),
  }),
  /** All settings as they are from now on. */
  z.object({
    type: z.literal('topic_altered'),
    topicId: id,
    partitions: z.int().min(1),
    replication: nullableCount,
    config: topicConfig,
  }),
  z.object({ type: z.literal('topic_deleted'), topicId: id, name: id, atMs: z.int() }),
  z.object({ type: z.literal('edge_registered'), edgeId: id, atMs: z.int() }),
  /**
   * `session` is the state after the grant; `fork` remembers the last fork, to tell a clone by; `claim`: what is true of the edge once it is known to
   * hold the number, and not before, for a hello may come late from a connection that is given up.
   */
  z.object({
    type: z.literal('session_granted'),
    edgeId: id,
    session,
    fork: fork.nullable(),
    alarm: alarm.nullable(),
    claim: z.object({ session: count, fork, alarm }).nullable(),
    address: z.string(),
    software: z.string(),
    atMs: z.int(),
  }),
  z.object({ type: z.literal('session_confirmed'), edgeId: id, session }),
  z.object({ type: z.literal('edge_removed'), edgeId: id }),
  z.object({ type: z.literal('lane_bound'), edgeId: id, topicId: id, lane: count, partition: count }),
  /** The records that follow are all there is: the image begins anew. */
  z.object({ type: z.literal('snapshot') }),
  /** Producer ids below `next` are given out. */
  z.object({ type: z.literal('producer_ids'), next: count }),
  /** The node is there under a new incarnation, fenced until it is heard of. */
  z.object({
    type: z.literal('node_registered'),
    nodeId,
    directoryId: id,
    incarnation: count,
    peerAddress: z.string().nullable(),
    httpAddress: z.string(),
    rack: z.string().nullable(),
    software: z.string(),
    startId: id.nullable(),
    atMs: z.int(),
  }),
  /** `left`: by its own orderly stop. */
  z.object({ type: z.literal('node_fenced'), nodeId, left: z.boolean(), atMs: z.int() }),
  z.object({ type: z.literal('node_unfenced'), nodeId, atMs: z.int() }),
  z.object({ type: z.literal('node_draining'), nodeId, draining: z.boolean() }),
  z.object({ type: z.literal('node_removed'), nodeId, atMs: z.int() }),
  /** Incarnations up to `last` were given; in snapshots, for those of nodes that are gone. */
  z.object({ type: z.literal('incarnations'), last: count }),
  partitionsChanged,
])

type WireRecord = z.infer<typeof recordSchema>

/** One change of the image. */
export type MetadataRecord = Exclude<WireRecord, { type: 'partitions_changed' }> | PartitionChanged
export type MetadataRecordOf<Type extends MetadataRecord['type']> = Extract<MetadataRecord, { type: Type }>

/** Versions of the shapes that grew; the others have the first. A field added to one gives it the next. */
const VERSIONS: Readonly<Partial<Record<WireRecord['type'], number>>> = {
  topic_created: 2,
  topic_altered: 2,
  session_granted: 2,
  node_registered: 2,
}

const KNOWN_VERSIONS: ReadonlyMap<string, number> = new Map(
  recordSchema.options.map(({ shape }) => [shape.type.value, VERSIONS[shape.type.value] ?? 1]),
)

/** The CBOR of a record. */
export function encodeRecord(record: MetadataRecord): Uint8Array {
  return encodeRecords([record])
}

/**
 * The CBOR of records that become so together, at least one: of a single one as it is, of more as an array. Partitions of
 * one topic that follow one another are written as one.
 */
export function encodeRecords(records: readonly MetadataRecord[]): Uint8Array {
  assert(records.length > 0, 'no records to encode')
  const written: Record<string, CborInput>[] = []
  let topicId: string | null = null
  let states: CborInput[] = []
  for (const record of records) {
    if (record.type !== 'partition_changed') {
      topicId = null
      written.push({ v: VERSIONS[record.type] ?? 1, ...record })
      continue
    }
    if (record.topicId !== topicId) {
      topicId = record.topicId
      states = []
      written.push({ v: 1, type: 'partitions_changed', topicId, states })
    }
    states.push(packState(record))
  }
  const [first, ...others] = written
  return encodeCbor(first !== undefined && others.length === 0 ? first : written)
}

/**
 * The records of what `encodeRecords` gave. Throws `directory_newer_format` where a newer version wrote it,
 * `corrupt_log` where it makes no sense.
 */
export function decodeRecords(bytes: Uint8Array): MetadataRecord[] {
  const value = readCbor(bytes)
  const items = Array.isArray(value) ? value : [value]
  if (items.length === 0) throw new TributaryError('corrupt_log', 'a metadata entry is empty')
  return items.flatMap((item): MetadataRecord[] => {
    const record = checked(item)
    return record.type === 'partitions_changed' ? unpackStates(record) : [record]
  })
}

function checked(value: CborValue): WireRecord {
  const plain = value instanceof Map ? toObject(value) : {}
  const { type, v } = plain
  if (typeof type !== 'string' || typeof v !== 'number') {
    throw new TributaryError('corrupt_log', 'a metadata record has no type or version; restore the directory')
  }
  if (v > (KNOWN_VERSIONS.get(type) ?? 0)) {
    throw new TributaryError(
      'directory_newer_format',
      `the metadata holds a record "${type}" version ${v}, which this version does not know: run the newer version that wrote it`,
      { details: { type, version: v } },
    )
  }
  const parsed = recordSchema.safeParse(v === 1 ? ofFirstVersion(type, plain) : plain)
  if (parsed.success) return ofKnownFormat(parsed.data)
  const issue = parsed.error.issues[0]
  throw new TributaryError(
    'corrupt_log',
    `metadata record "${type}" is malformed at ${issue?.path.join('.') ?? 'its start'}: ${issue?.message ?? 'unknown'}`,
  )
}

/** What the first version of a shape did not have yet, as it was then. */
function ofFirstVersion(type: string, plain: Record<string, unknown>): Record<string, unknown> {
  if (type === 'node_registered') return { ...plain, startId: null }
  if (type === 'session_granted') return { ...plain, claim: null }
  if (type !== 'topic_created' && type !== 'topic_altered') return plain
  const config = { ...FIRST_TOPIC_CONFIG, ...(isObject(plain.config) ? plain.config : {}) }
  return { replication: null, ...plain, config }
}

const FIRST_TOPIC_CONFIG = { minInsyncReplicas: null, uncleanLeaderElection: false }

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}

function ofKnownFormat(record: WireRecord): WireRecord {
  if (record.type !== 'cluster' || record.format <= METADATA_FORMAT) return record
  throw new TributaryError(
    'directory_newer_format',
    `the metadata has format ${record.format}, this version knows ${METADATA_FORMAT}: run the newer version that wrote it`,
  )
}

function readCbor(bytes: Uint8Array): CborValue {
  try {
    // The records of one request may be ten thousand partitions; they are our own, and no more than their bytes.
    return decodeCbor(bytes, bytes.length)
  } catch (cause) {
    throw new TributaryError('corrupt_log', `a metadata record is no CBOR: ${messageOf(cause)}`, { cause })
  }
}

function toObject(map: Map<string, CborValue>): Record<string, unknown> {
  const plain: Record<string, unknown> = {}
  for (const [key, value] of map) plain[key] = value instanceof Map ? toObject(value) : value
  return plain
}
