import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { encodeCbor } from '../../../common/cbor.ts'
import { isTributaryError } from '../../../common/errors.ts'
import type { MetadataRecord } from '../../../hub/controller/records.ts'
import { decodeRecord, encodeRecord } from '../../../hub/controller/records.ts'

const topicConfig = { retentionMs: null, retentionBytes: 5, segmentBytes: 7, maxRecordBytes: 2 ** 40 }
const session = { confirmed: 1, grantedFrom: 2, newest: 3 }

const samples: MetadataRecord[] = [
  { type: 'cluster', clusterId: 'c', format: 1, atMs: 1_763_630_000_123 },
  {
    type: 'topic_created',
    topicId: 'a',
    name: 'n',
    partitions: 3,
    internal: true,
    config: topicConfig,
    atMs: 1,
  },
  { type: 'topic_altered', topicId: 'a', partitions: 4, config: topicConfig },
  { type: 'topic_deleted', topicId: 'a', name: 'n', atMs: 2 },
  { type: 'edge_registered', edgeId: 'e', atMs: 3 },
  {
    type: 'session_granted',
    edgeId: 'e',
    session,
    fork: { presented: 1, atMs: 5 },
    alarm: { kind: 'clone', atMs: 5, message: 'm' },
    address: '',
    software: 's',
    atMs: 5,
  },
  { type: 'session_confirmed', edgeId: 'e', session },
  { type: 'edge_removed', edgeId: 'e' },
  { type: 'lane_bound', edgeId: 'e', topicId: 'a', lane: 0, partition: 11 },
  { type: 'snapshot' },
  { type: 'producer_ids', next: 2 ** 50 },
]

function codeOf(bytes: Uint8Array): string {
  try {
    decodeRecord(bytes)
  } catch (error) {
    if (isTributaryError(error)) return error.code
    throw error
  }
  return 'none'
}

describe('metadata records', () => {
  it.each(samples)('come back as they were: $type', record => {
    expect(decodeRecord(encodeRecord(record))).toEqual(record)
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
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), bytes => {
        expect(['corrupt_log', 'directory_newer_format']).toContain(codeOf(bytes))
      }),
    )
  })
})
