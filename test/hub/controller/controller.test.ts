import { describe, expect, it } from 'vitest'
import { TributaryError } from '../../../common/errors.ts'
import type { ControllerSettings, Plan } from '../../../hub/controller/controller.ts'
import * as controller from '../../../hub/controller/controller.ts'
import type { Image } from '../../../hub/controller/image.ts'
import { emptyImage, MAX_DELETED_TOPICS } from '../../../hub/controller/image.ts'
import { MAX_ALARMS_PER_EDGE } from '../../../hub/controller/image-edges.ts'

const settings: ControllerSettings = {
  autoCreateTopics: true,
  defaultPartitions: 12,
  maxTopics: 5,
  maxPartitions: 60,
  maxEdges: 3,
  defaultReplication: 3,
  maxRecordBytesCeiling: 8 * 1024 * 1024,
  topicDefaults: {
    retentionMs: 604_800_000,
    retentionBytes: null,
    segmentBytes: 256 * 1024 * 1024,
    maxRecordBytes: 1024 * 1024,
    minInsyncReplicas: null,
    uncleanLeaderElection: false,
  },
}

let ids = 0
function context(nowMs = 1_000) {
  return { nowMs, freshTopicId: (++ids).toString(16).padStart(32, '0') }
}

function setup() {
  const image = emptyImage()
  const commit = <T>({ records, response }: Plan<T>): T => {
    for (const record of records) image.replay(record)
    return response
  }
  return {
    image,
    commit,
    create: (name: string, partitions?: number) =>
      commit(
        controller.createTopic(
          image,
          settings,
          partitions === undefined ? { name } : { name, partitions },
          context(),
        ),
      ),
    connect: (edgeId: string, session = 0, nowMs = 1) =>
      commit(
        controller.connectEdge(image, settings, { edgeId, session, address: 'a', software: 's' }, nowMs),
      ),
    bind: (edgeId: string, topic: string, topicId: string | null = null, lane = 0, lanes = 1) =>
      commit(
        controller.bindLane(
          image,
          settings,
          { edgeId, topic, topicId, lane, lanes, partitionBy: lanes === 1 ? 'edge' : 'key' },
          context(),
        ),
      ),
    remove: (name: string) => commit(controller.deleteTopic(image, name, 5)),
  }
}

function codeOf(action: () => unknown): string {
  try {
    action()
  } catch (error) {
    if (error instanceof TributaryError) return error.code
    throw error
  }
  return 'none'
}

describe('topics', () => {
  it('creates with defaults and changes nothing before the records are replayed', () => {
    const { image, commit } = setup()
    const plan = controller.createTopic(image, settings, { name: 'a.b_c-9' }, context())
    expect(image.topics()).toEqual([])
    const topic = commit(plan)
    expect(topic).toMatchObject({ partitions: 12, internal: false, config: settings.topicDefaults })
    expect(image.topicByName('a.b_c-9')).toEqual(topic)
    expect(image.topicById(topic.topicId)).toEqual(topic)
  })

  it.each(['', '.', '..', 'a b', 'ä', 'a/b', '__x', 'x'.repeat(250)])('refuses the name %j', name => {
    const { create } = setup()
    expect(codeOf(() => create(name))).toBe('invalid_argument')
  })

  it('refuses a second topic of a name, bad counts and what is over a limit', () => {
    const { create } = setup()
    create('a', 50)
    expect(codeOf(() => create('a'))).toBe('topic_exists')
    expect(codeOf(() => create('b', 0))).toBe('invalid_argument')
    expect(codeOf(() => create('b', 1.5))).toBe('invalid_argument')
    expect(codeOf(() => create('b', 11))).toBe('limit_exceeded')
    for (const name of ['b', 'c', 'd', 'e']) create(name, 1)
    expect(codeOf(() => create('f', 1))).toBe('limit_exceeded')
  })

  it.each([
    { segmentBytes: 1 },
    { retentionMs: 0 },
    { retentionBytes: -1 },
    { maxRecordBytes: 9 * 1024 * 1024 },
    { maxRecordBytes: Number.NaN },
    { minInsyncReplicas: 0 },
    { minInsyncReplicas: 16 },
  ])('refuses the settings %j', config => {
    const { image } = setup()
    expect(codeOf(() => controller.createTopic(image, settings, { name: 'a', config }, context()))).toBe(
      'invalid_argument',
    )
  })

  it('alters settings, lets partitions grow and never shrink', () => {
    const { image, commit, create } = setup()
    create('a', 3)
    const config = { retentionMs: null }
    const altered = commit(controller.alterTopic(image, settings, 'a', { partitions: 5, config }))
    expect(altered).toMatchObject({ partitions: 5, config: { ...settings.topicDefaults, ...config } })
    expect(image.topicByName('a')).toEqual(altered)
    expect(image.partitionCount()).toBe(5)
    expect(codeOf(() => controller.alterTopic(image, settings, 'a', { partitions: 4 }))).toBe(
      'invalid_argument',
    )
    expect(codeOf(() => controller.alterTopic(image, settings, 'a', { partitions: 61 }))).toBe(
      'limit_exceeded',
    )
    expect(codeOf(() => controller.alterTopic(image, settings, 'b', {}))).toBe('unknown_topic')
  })

  it('keeps the internal topics', () => {
    const { image, commit } = setup()
    const fresh = ['a'.repeat(32), 'b'.repeat(32)] as const
    commit(controller.ensureInternalTopics(image, settings, fresh, 1))
    expect(image.topics().map(({ name, internal }) => ({ name, internal }))).toEqual([
      { name: '_gaps', internal: true },
      { name: '_dead', internal: true },
    ])
    expect(controller.ensureInternalTopics(image, settings, fresh, 2).records).toEqual([])
    expect(codeOf(() => controller.deleteTopic(image, '_gaps', 1))).toBe('invalid_argument')
    expect(codeOf(() => controller.alterTopic(image, settings, '_gaps', { partitions: 2 }))).toBe(
      'invalid_argument',
    )
  })

  it('gives a topic made again another id and remembers the old one', () => {
    const { image, create, remove } = setup()
    const old = create('a')
    remove('a')
    expect(image.partitionCount()).toBe(0)
    const fresh = create('a')
    expect(fresh.topicId).not.toBe(old.topicId)
    expect(image.deletedTopic(old.topicId)).toMatchObject({ name: 'a' })
  })
})

describe('lanes', () => {
  it('makes an unknown topic, binds once and keeps the partition when partitions grow', () => {
    const { image, commit, connect, bind } = setup()
    connect('e1')
    const first = bind('e1', 't')
    commit(controller.alterTopic(image, settings, 't', { partitions: 40 }))
    expect(bind('e1', 't', first.topic.topicId).partition).toBe(first.partition)
  })

  it('puts lane i on partition i where they agree in number, and spreads fewer lanes', () => {
    const { connect, create, bind } = setup()
    connect('e1')
    create('t', 4)
    create('u', 8)
    const partitions = (topic: string) => [0, 1, 2, 3].map(lane => bind('e1', topic, null, lane, 4).partition)
    expect(partitions('t')).toEqual([0, 1, 2, 3])
    expect(new Set(partitions('u')).size).toBe(4)
  })

  it('refuses lanes that are none, _gaps, edges it does not know and too few rights', () => {
    const { image, connect, bind } = setup()
    expect(codeOf(() => bind('e1', 't'))).toBe('not_found')
    connect('e1')
    expect(codeOf(() => bind('e1', 't', null, 1, 1))).toBe('invalid_argument')
    expect(codeOf(() => bind('e1', '_gaps'))).toBe('invalid_argument')
    const request = {
      edgeId: 'e1',
      topic: 't',
      topicId: null,
      lane: 0,
      lanes: 1,
      partitionBy: 'edge',
    } as const
    const closed = { ...settings, autoCreateTopics: false }
    expect(codeOf(() => controller.bindLane(image, closed, request, context()))).toBe('unknown_topic')
  })

  it('makes an unknown topic for a producer, but none that was deleted or is the hub’s own', () => {
    const { image, commit, create, remove } = setup()
    const forProducer = (name: string, with_ = settings) =>
      controller.topicForProducer(image, with_, name, context())
    const made = commit(forProducer('p'))
    expect(made).toMatchObject({ name: 'p', internal: false, partitions: settings.defaultPartitions })
    expect(forProducer('p')).toEqual({ records: [], response: made })
    expect(codeOf(() => forProducer('q', { ...settings, autoCreateTopics: false }))).toBe('unknown_topic')
    expect(codeOf(() => forProducer('__own'))).toBe('invalid_argument')
    expect(codeOf(() => forProducer('_gaps'))).toBe('unknown_topic')
    remove('p')
    expect(codeOf(() => forProducer('p'))).toBe('topic_deleted')
    expect(forProducer(create('p').name).records).toEqual([])
  })

  it('does not let an edge that knew a deleted topic make it again, with or without its id', () => {
    const { connect, bind, create, remove } = setup()
    connect('e1')
    connect('e2')
    const { topic } = bind('e1', 't')
    remove('t')
    expect(codeOf(() => bind('e1', 't', topic.topicId))).toBe('topic_deleted')
    expect(codeOf(() => bind('e1', 't'))).toBe('topic_deleted')
    const fresh = create('t')
    expect(codeOf(() => bind('e1', 't', topic.topicId))).toBe('topic_deleted')
    expect(bind('e1', 't').topic).toEqual(fresh)
    remove('t')
    expect(bind('e2', 't').topic.name).toBe('t')
  })

  it('takes an id of another history for an edge that has moved', () => {
    const { connect, bind, create } = setup()
    connect('e1')
    const topic = create('t')
    expect(bind('e1', 't', 'f'.repeat(32)).topic).toEqual(topic)
    expect(bind('e1', 'u', 'e'.repeat(32)).topic.name).toBe('u')
  })
})

describe('edges', () => {
  it('registers, grants, confirms and fences', () => {
    const { image, commit, connect } = setup()
    expect(connect('e1')).toEqual({ session: 1, verdict: 'ok', alarm: null })
    expect(codeOf(() => controller.confirmEdge(image, 'e1', 2))).toBe('fenced')
    commit(controller.confirmEdge(image, 'e1', 1))
    expect(controller.confirmEdge(image, 'e1', 1).records).toEqual([])
    expect(codeOf(() => controller.confirmEdge(image, 'e9', 1))).toBe('not_found')
    expect(connect('e1', 1).session).toBe(2)
    expect(image.edge('e1')).toMatchObject({ firstSeenMs: 1, address: 'a', software: 's' })
  })

  it('alarms on forks, keeps the newest alarms, and treats a removed edge as new', () => {
    const { image, commit, connect } = setup()
    connect('e1')
    connect('e1', 1)
    commit(controller.confirmEdge(image, 'e1', 2))
    for (let round = 0; round < MAX_ALARMS_PER_EDGE + 5; round++) {
      const { session, verdict } = connect('e1', 1, round)
      expect(verdict).toBe('fork')
      expect(commit(controller.confirmEdge(image, 'e1', session))?.kind).toBe('fork')
    }
    const alarms = image.edge('e1')?.alarms ?? []
    expect(alarms).toHaveLength(MAX_ALARMS_PER_EDGE)
    expect(alarms.at(-1)).toMatchObject({ kind: 'fork', atMs: MAX_ALARMS_PER_EDGE + 4 })
    commit(controller.removeEdge(image, 'e1'))
    expect(codeOf(() => controller.removeEdge(image, 'e1'))).toBe('not_found')
    expect(connect('e1', 0)).toMatchObject({ session: 1, verdict: 'ok' })
  })

  it('alarms on a fork once the edge holds the number, not for a hello that comes late and is never followed', () => {
    const { image, commit, connect } = setup()
    for (const presented of [0, 1, 2]) {
      const { session } = connect('e1', presented)
      commit(controller.confirmEdge(image, 'e1', session))
    }
    expect(connect('e1', 1)).toEqual({ session: 4, verdict: 'fork', alarm: null })
    expect(connect('e1', 3)).toMatchObject({ session: 5, verdict: 'ok', alarm: null })
    expect(commit(controller.confirmEdge(image, 'e1', 5))).toBeNull()
    expect(image.edge('e1')).toMatchObject({ alarms: [], fork: null })
    // Its word that it holds the number was lost, and it comes again by that.
    expect(connect('e1', 1, 7)).toMatchObject({ session: 6, verdict: 'fork' })
    const again = emptyImage()
    for (const record of image.records()) again.replay(record)
    expect(again.edge('e1')).toEqual(image.edge('e1'))
    expect(connect('e1', 6)).toMatchObject({ session: 7, verdict: 'ok' })
    expect(image.edge('e1')).toMatchObject({
      alarms: [{ kind: 'fork', atMs: 7 }],
      fork: { presented: 1 },
      claim: null,
    })
  })

  it('refuses ids that are none and edges over the limit', () => {
    const { connect } = setup()
    for (const bad of ['', ' ', 'a/b', '-a', 'x'.repeat(129)]) {
      expect(codeOf(() => connect(bad))).toBe('invalid_argument')
    }
    for (const edgeId of ['a', 'b', 'c']) connect(edgeId)
    expect(codeOf(() => connect('d'))).toBe('limit_exceeded')
    expect(connect('a', 1).verdict).toBe('ok')
  })
})

describe('image', () => {
  function rebuilt(image: Image): Image {
    const copy = emptyImage()
    for (const record of image.records()) copy.replay(record)
    return copy
  }

  it('comes back from its own records', () => {
    const { image, commit, connect, bind, create, remove } = setup()
    commit({ records: [{ type: 'cluster', clusterId: 'c', format: 1, atMs: 1 }], response: null })
    connect('e1')
    connect('e1', 1)
    connect('e1', 0)
    bind('e1', 't')
    remove('t')
    create('t')
    bind('e1', 'u', null, 1, 3)
    commit(controller.reserveProducerIds(image))
    expect(rebuilt(image).records()).toEqual(image.records())
    expect(rebuilt(image).edge('e1')).toEqual(image.edge('e1'))
    expect(rebuilt(image).partitionCount()).toBe(image.partitionCount())
  })

  it('forgets the oldest deleted topic over the limit', () => {
    const image = emptyImage()
    for (let index = 0; index <= MAX_DELETED_TOPICS; index++) {
      image.replay({ type: 'topic_deleted', topicId: `id${index}`, name: `n${index % 2}`, atMs: index })
    }
    expect(image.deletedTopics()).toBe(MAX_DELETED_TOPICS)
    expect(image.deletedTopic('id0')).toBeUndefined()
    expect(image.deletedNamed('n0')[0]).toMatchObject({ topicId: 'id2' })
  })

  it('hands out each producer id once', () => {
    const { image, commit } = setup()
    const first = commit(controller.reserveProducerIds(image))
    const second = commit(controller.reserveProducerIds(image))
    expect(second.from).toBe(first.to)
  })
})
