import { z } from 'zod'
import type { RestOptions } from './client-rest.ts'
import { call } from './client-rest.ts'

/** Topics and edges over the hub's REST interface. */

const config = z.object({
  retentionMs: z.number().nullable(),
  retentionBytes: z.number().nullable(),
  segmentBytes: z.number(),
  maxRecordBytes: z.number(),
  minInsyncReplicas: z.number().nullable(),
  uncleanLeaderElection: z.boolean(),
})
const topicFields = {
  name: z.string(),
  topicId: z.string(),
  replication: z.number().nullable(),
  internal: z.boolean(),
  createdMs: z.number(),
  config,
}
const topicSummary = z.object({ ...topicFields, partitions: z.number() })
const nodeIds = z.array(z.number()).default([])
const topicDescription = z.object({
  ...topicFields,
  partitions: z.array(
    z.object({
      partition: z.number(),
      /** Node ids; hubs that know no nodes do not say. */
      leader: z.number().nullable().default(null),
      replicas: nodeIds,
      isr: nodeIds,
      /** -1 where the partition has no leader now, as all that follows. */
      startOffset: z.number(),
      endOffset: z.number(),
      highWatermark: z.number(),
      leaderEpoch: z.number(),
      sizeBytes: z.number(),
    }),
  ),
})
const edgeSummary = z.object({
  id: z.string(),
  connected: z.boolean(),
  /** The node it is connected to; hubs that know no nodes do not say. */
  nodeId: z.number().nullable().default(null),
  address: z.string(),
  software: z.string(),
  session: z.number(),
  firstSeenMs: z.number(),
  lastSeenMs: z.number(),
  clockOffsetMs: z.number(),
  alarms: z.array(z.object({ kind: z.string(), atMs: z.number(), message: z.string() })),
  report: z
    .object({
      atMs: z.number(),
      diskBytes: z.number(),
      diskBudgetBytes: z.number(),
      lanes: z.array(
        z.object({
          topic: z.string(),
          lane: z.number(),
          lagRecords: z.number(),
          lagBytes: z.number(),
          oldestMs: z.number().nullable(),
          droppedRecords: z.number(),
        }),
      ),
    })
    .nullable(),
  lag: z.object({ records: z.number(), bytes: z.number(), oldestMs: z.number().nullable() }).nullable(),
})

/** Settings of a topic: times in milliseconds of hub time, bytes per partition; null for no bound, of `minInsyncReplicas` for the default. */
export type TopicSettings = z.infer<typeof config>
/** A topic in a list; `partitions` counts them, `replication` is null where it is the cluster's default. */
export type TopicSummary = z.infer<typeof topicSummary>
/** A topic with where each partition stands. */
export type TopicDescription = z.infer<typeof topicDescription>
/** An edge with its last report, and the lag summed over its lanes. */
export type EdgeSummary = z.infer<typeof edgeSummary>

export interface TopicsAdmin {
  list(): Promise<TopicSummary[]>
  /** Rejects with `topic_exists`, `invalid_argument`, `limit_exceeded`. */
  create(request: {
    name: string
    partitions?: number
    /** Replicas of each partition; default: the cluster's, growing with its nodes. */
    replication?: number
    config?: Partial<TopicSettings>
  }): Promise<TopicDescription>
  /** Rejects with `unknown_topic`. */
  describe(name: string): Promise<TopicDescription>
  /** `partitions` may only grow. */
  alter(
    name: string,
    change: { partitions?: number; config?: Partial<TopicSettings> },
  ): Promise<TopicDescription>
  delete(name: string): Promise<void>
}

export interface EdgesAdmin {
  list(): Promise<EdgeSummary[]>
  /** Forgets an edge and how far its lanes are. Rejects with `not_found`, and where it is connected. */
  remove(id: string): Promise<void>
}

export function createTopicsAdmin(rest: RestOptions): TopicsAdmin {
  const path = (name: string): string => `/v1/topics/${encodeURIComponent(name)}`
  return {
    list: async () =>
      (await call(rest, 'GET', '/v1/topics', z.object({ topics: z.array(topicSummary) }))).topics,
    create: request => call(rest, 'POST', '/v1/topics', topicDescription, request),
    describe: name => call(rest, 'GET', path(name), topicDescription),
    alter: (name, change) => call(rest, 'PATCH', path(name), topicDescription, change),
    delete: async name => {
      await call(rest, 'DELETE', path(name), z.null())
    },
  }
}

export function createEdgesAdmin(rest: RestOptions): EdgesAdmin {
  return {
    list: async () => (await call(rest, 'GET', '/v1/edges', z.object({ edges: z.array(edgeSummary) }))).edges,
    remove: async id => {
      await call(rest, 'DELETE', `/v1/edges/${encodeURIComponent(id)}`, z.null())
    },
  }
}
