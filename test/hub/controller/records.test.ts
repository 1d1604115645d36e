import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { must } from '../../../common/assert.ts'
import { encodeCbor } from '../../../common/cbor.ts'
import { isTributaryError } from '../../../common/errors.ts'
import type { MetadataRecord } from '../../../hub/controller/records.ts'
import { decodeRecords, encodeRecord, encodeRecords } from '../../../hub/controller/records.ts'

const firstConfig = { retentionMs: null, retentionBytes: 5, segmentBytes: 7, maxRecordBytes: 2 ** 40 }
const topicConfig = { ...firstConfig, minInsyncReplicas: 2, uncleanLeaderElection: true }
const session = { confirmed: 1, grantedFrom: 2, newest: 3 }

const samples: MetadataRecord[] = [
  { type: 'cluster', clusterId: 'c', format: 1, atMs: 1_763_630_000_123 },
  {
    type: 'topic_created',
    topicId: 'a',
    name: 'n',
    partitions: 3,
    replication: 3,
    internal: true,
    config: topicConfig,
    atMs: 1,
  },
  { type: 'topic_altered', topicId: 'a', partitions: 4, replication: null, config: topicConfig },
  { type: 'topic_deleted', topicId: 'a', name: 'n', atMs: 2 },
  { type: 'edge_registered', edgeId: 'e', atMs: 3 },
  {
    type: 'session_granted',
    edgeId: 'e',
    session,
    fork: { presented: 1, atMs: 5 },
    alarm: { kind: 'clone', atMs: 5, message: 'm' },
    claim: { session: 7, fork: { presented: 1, atMs: 5 }, alarm: { kind: 'fork', atMs: 5, message: 'm' } },
    address: '',
    software: 's',
    atMs: 5,
  },
  { type: 'session_confirmed', edgeId: 'e', session },
  { type: 'edge_removed', edgeId: 'e' },
  { type: 'lane_bound', edgeId: 'e', topicId: 'a', lane: 0, partition: 11 },
  { type: 'snapshot' },
  { type: 'producer_ids', next: 2 ** 50 },
  {
    type: 'node_registered',
    nodeId: 1,
    directoryId: 'd',
    incarnation: 4,
    peerAddress: null,
    httpAddress: 'h:1',
    rack: 'r',
    software: 's',
    startId: 'x',
    atMs: 6,
  },
  { type: 'node_fenced', nodeId: 1, left: true, atMs: 7 },
  { type: 'node_unfenced', nodeId: 1, atMs: 8 },
  { type: 'node_draining', nodeId: 1, draining: true },
  { type: 'node_removed', nodeId: 1, atMs: 9 },
  { type: 'incarnations', last: 4 },
  {
    type: 'partition_changed',
    topicId: 'a',
    partition: 0,
    replicas: [1, 2],
    isr: [1],
    adding: [],
    removing: [2],
    leader: null,
    leaderIncarnation: 4,
    leaderEpoch: 5,
    partitionEpoch: 6,
    unclean: false,
  },
]

function only(bytes: Uint8Array): MetadataRecord {
  const [record, ...others] = decodeRecords(bytes)
  expect(others).toEqual([])
  return must(record, 'no record')
}

function codeOf(bytes: Uint8Array): string {
  try {
    decodeRecords(bytes)
  } catch (error) {
    if (isTributaryError(error)) return error.code
    throw error
  }
  return 'none'
}

describe('metadata records', () => {
  it.each(samples)('come back as they were: $type', record => {
    expect(only(encodeRecord(record))).toEqual(record)
  })

  it('of topics are read as the first version wrote them', () => {
    const altered = { type: 'topic_altered', topicId: 'a', partitions: 4, config: firstConfig }
    const defaults = { minInsyncReplicas: null, uncleanLeaderElection: false }
    expect(only(encodeCbor({ v: 1, ...altered }))).toEqual({
      ...altered,
      replication: null,
      config: { ...firstConfig, ...defaults },
    })
    const created = {
      type: 'topic_created',
      name: 'n',
      topicId: 'a',
      partitions: 4,
      internal: false,
      atMs: 1,
    }
    expect(only(encodeCbor({ v: 1, ...created, config: firstConfig }))).toEqual({
      ...created,
      replication: null,
      config: { ...firstConfig, ...defaults },
    })
    expect(codeOf(encodeCbor({ v: 2, ...created, config: firstConfig }))).toBe('corrupt_log')
    expect(codeOf(encodeCbor({ v: 3, ...created, config: firstConfig }))).toBe('directory_newer_format')
  })

  it('of sessions are read as the first version wrote them', () => {
    const alarm = { kind: 'fork', atMs: 5, message: 'm' }
    const told = { fork: { presented: 1, atMs: 5 }, alarm, address: '', software: 's', atMs: 5 }
    const granted = { type: 'session_granted', edgeId: 'e', session, ...told }
    expect(only(encodeCbor({ v: 1, ...granted }))).toEqual({ ...granted, claim: null })
  })

  it('of nodes are read as the first version wrote them', () => {
    const told = { directoryId: 'd', peerAddress: null, httpAddress: 'h:1', rack: null, software: 's' }
    const registered = { type: 'node_registered', nodeId: 1, incarnation: 4, atMs: 6, ...told }
    expect(only(encodeCbor({ v: 1, ...registered }))).toEqual({ ...registered, startId: null })
  })

  it('of one request may be very many', () => {
    const sample = samples.find(record => record.type === 'partition_changed')
    const many = Array.from({ length: 20_000 }, () => must(sample, 'no sample'))
    const bytes = encodeRecords(many)
    expect(decodeRecords(bytes)).toHaveLength(many.length)
    expect(bytes.length / many.length).toBeLessThan(25)
  })

  it('of one request keep their order', () => {
    const mixed = [...samples, ...samples].filter(({ type }) => type !== 'snapshot')
    expect(decodeRecords(encodeRecords(mixed))).toEqual(mixed)
  })

  it('of a newer version stop the node', () => {
    expect(codeOf(encodeCbor({ type: 'quota_set', v: 1 }))).toBe('directory_newer_format')
    expect(codeOf(encodeCbor({ type: 'producer_ids', next: 1, v: 2 }))).toBe('directory_newer_format')
    const future = { type: 'cluster', clusterId: 'c', format: 2, atMs: 1, v: 1 }
    expect(codeOf(encodeCbor(future))).toBe('directory_newer_format')
  })

  it('that make no sense are called corrupt', () => {
    expect(codeOf(encodeCbor({ type: 'producer_ids', next: 'x', v: 1 }))).toBe('corrupt_log')
    expect(codeOf(encodeCbor([1]))).toBe('corrupt_log')
    expect(codeOf(encodeCbor([]))).toBe('corrupt_log')
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), bytes => {
        expect(['corrupt_log', 'directory_newer_format']).toContain(codeOf(bytes))
      }),
    )
  })
})
