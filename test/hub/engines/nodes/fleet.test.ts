import { afterEach, beforeEach, expect, test } from 'vitest'
import { isTributaryError } from '../../../../common/errors.ts'
import type { ImageRecord } from '../../../../hub/controller/image.ts'
import { runOf, testRun } from '../../replica/batches.ts'
import { hello } from '../stage.ts'
import { created, eventually, ledBy, Nodes, TOPIC } from './stage.ts'

const REPORT = { atMs: 5, diskBytes: 1, diskBudgetBytes: 2, lanes: [] }

let nodes: Nodes

beforeEach(async () => {
  nodes = new Nodes()
  await nodes.start(1, 2, 3)
  const registered = (nodeId: number): ImageRecord => ({
    type: 'node_registered',
    nodeId,
    directoryId: `d${nodeId}`,
    incarnation: nodeId,
    peerAddress: `n${nodeId}:7700`,
    httpAddress: `n${nodeId}:7600`,
    rack: null,
    software: 'test',
    startId: null,
    atMs: 1,
  })
  nodes.commit([registered(1), registered(2), registered(3), created(2), ledBy(0, 1, 1), ledBy(1, 2, 1)])
})
afterEach(() => nodes.close())

test('a newer connection of an edge fences the older one on whatever node that is, once it begins', async () => {
  const fenced: string[] = []
  const connect = (nodeId: number, session: number) =>
    nodes.node(nodeId).fleet.connect(hello('e', session, () => fenced.push(`${nodeId}/${session}`)))
  expect(await connect(2, 0)).toEqual({ session: 1, verdict: 'ok' })
  await nodes.node(2).fleet.start('e', 1)
  // A hello that stalled in a connection given up: nothing follows it.
  expect(await connect(3, 0)).toEqual({ session: 2, verdict: 'fork' })
  expect(fenced).toEqual([])
  nodes.node(3).fleet.disconnect('e', 2)
  expect(await connect(3, 1)).toEqual({ session: 3, verdict: 'ok' })
  expect(nodes.node(2).fleet.local()[0]).toMatchObject({ connected: true, alarms: [] })
  await nodes.node(3).fleet.start('e', 3)
  expect(fenced).toEqual(['2/0'])
  expect(nodes.node(2).fleet.local()[0]).toMatchObject({ connected: false })
  expect(await connect(3, 3)).toEqual({ session: 4, verdict: 'ok' })
  await nodes.node(3).fleet.start('e', 4)
  expect(fenced).toEqual(['2/0', '3/1'])
  const late = await nodes
    .node(2)
    .fleet.start('e', 2)
    .catch((error: unknown) => error)
  expect(isTributaryError(late, 'fenced')).toBe(true)
})

test('edges are listed with what the node knows that they are connected to, on every node', async () => {
  await nodes.node(2).fleet.connect(hello('a'))
  await nodes.node(3).fleet.connect(hello('b'))
  nodes.node(3).fleet.report('b', 1, REPORT, 42)
  await nodes.node(1).fleet.connect(hello('gone'))
  nodes.node(1).fleet.disconnect('gone', 1)
  for (const nodeId of [1, 2, 3]) {
    const listed = await nodes.node(nodeId).fleet.list()
    expect(listed).toMatchObject([
      { id: 'a', connected: true, nodeId: 2, report: null },
      { id: 'b', connected: true, nodeId: 3, report: REPORT, clockOffsetMs: 42 },
      { id: 'gone', connected: false, nodeId: null },
    ])
  }
  expect(
    nodes
      .node(1)
      .fleet.local()
      .map(({ connected }) => connected),
  ).toEqual([false, false, false])
  // A node that is away leaves what the metadata knows.
  nodes.part(1, 3)
  await eventually(() => !nodes.node(1).peers.isUp(3), 'the break')
  expect((await nodes.node(1).fleet.list())[1]).toMatchObject({ id: 'b', connected: false, report: null })
})

test('many edges come in several answers', async () => {
  for (let index = 0; index < 2_500; index++) await nodes.node(2).fleet.connect(hello(`e${index}`))
  const listed = await nodes.node(1).fleet.list()
  expect(listed.filter(({ connected }) => connected).length).toBe(2_500)
  expect(nodes.node(2).called.filter(name => name === 'presence').length).toBe(3)
})

test('an edge is removed with its tips on all nodes, unless it is connected to one', async () => {
  const run = testRun(1)
  await nodes.node(3).fleet.connect(hello('e'))
  const lanes = [0, 1].map(partition => ({ edgeId: 'e', topicId: TOPIC, partition, lane: partition }))
  for (const lane of lanes) {
    const { edgeId, topicId, partition } = lane
    nodes.commit([{ type: 'lane_bound', edgeId, topicId, lane: lane.lane, partition }])
    await nodes.node(3).logs.startRun(lane, { run, prev: null, reason: 'first' })
    await nodes.node(3).logs.appendLane(lane, runOf(run, 0, 3))
  }
  const refused = await nodes
    .node(1)
    .fleet.remove('e')
    .catch((error: unknown) => error)
  expect(refused).toMatchObject({ code: 'invalid_argument' })
  nodes.node(3).fleet.disconnect('e', 1)
  await nodes.node(1).fleet.remove('e')
  for (const lane of lanes) {
    expect(await nodes.node(2).logs.openLane(lane)).toEqual({ tip: null, leaderEpoch: 1 })
  }
  expect(await nodes.node(2).fleet.list()).toEqual([])
  expect(nodes.node(3).fleet.presences()).toEqual([])
})
