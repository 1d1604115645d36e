import { afterEach, beforeEach, expect, test } from 'vitest'
import { testRun } from '../../replica/batches.ts'
import { created, eventually, ledBy, Nodes, TOPIC, valuesOf } from './stage.ts'

const GAPS = 'gaps-topic'
const RUN = testRun(1)

let nodes: Nodes
let next = [0, 0]

beforeEach(async () => {
  nodes = new Nodes()
  next = [0, 0]
  await nodes.start(1, 2, 3)
  nodes.commit([created(1, GAPS, '_gaps'), ledBy(0, 3, 1, GAPS), created(2), ledBy(0, 1, 1), ledBy(1, 2, 1)])
})
afterEach(() => nodes.close())

/** Declares gaps of one record each in a partition, by way of node 2. */
async function declare(count: number, partition = 0): Promise<void> {
  const { logs } = nodes.node(2)
  const lane = { edgeId: 'e', topicId: TOPIC, partition, lane: partition }
  const run = RUN + partition
  await logs.startRun(lane, { run, prev: null, reason: 'first' })
  for (let index = 0; index < count; index++) {
    const from = next[partition] ?? 0
    next[partition] = from + 1
    const place = { from, to: from + 1, localFrom: from, localTo: from + 1 }
    await logs.declareGap(lane, { run, ...place, reason: 'retention', firstMs: null, lastMs: 1 })
  }
}

async function told(): Promise<{ partition: number; from: number; offset: number; edge: string }[]> {
  const values = await valuesOf(nodes.node(3).logs, 0, GAPS)
  return values.map(text => JSON.parse(text))
}

async function eventuallyTold(count: number): Promise<void> {
  let found = 0
  const look = async (): Promise<void> => {
    while (found < count) {
      found = (await told()).length
      await new Promise(resolve => setTimeout(resolve, 5))
    }
  }
  const looking = look()
  await eventually(() => found >= count, `${count} notices`)
  await looking
}

test('gaps are told where _gaps is led, once and in order', async () => {
  await declare(20)
  await declare(5, 1)
  await eventuallyTold(25)
  const notices = await told()
  expect(notices.filter(({ partition }) => partition === 0).map(({ from }) => from)).toEqual(
    Array.from({ length: 20 }, (_, index) => index),
  )
  expect(notices.filter(({ partition }) => partition === 1).length).toBe(5)
  expect(notices[0]).toMatchObject({
    topic: 'numbers',
    topicId: TOPIC,
    edge: 'e',
    count: 1,
    reason: 'retention',
  })
})

test('what could not be told is told when _gaps has a leader again', async () => {
  nodes.commit([ledBy(0, null, 2, GAPS)])
  await declare(10)
  nodes.commit([ledBy(0, 3, 3, GAPS)])
  await eventuallyTold(10)
  expect((await told()).map(({ from }) => from)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
})

test('a notice whose answer is lost is told again and written once', async () => {
  await declare(1)
  await eventuallyTold(1)
  const [link] = nodes.net.open(1, 3)
  link?.hold('left')
  const before = nodes.node(3).called.filter(name => name === 'tell-gaps').length
  await declare(3)
  await eventually(
    () => nodes.node(3).called.filter(name => name === 'tell-gaps').length > before,
    'the notice',
  )
  await eventuallyTold(2)
  link?.cut()
  await eventuallyTold(4)
  await eventually(
    () => nodes.node(3).called.filter(name => name === 'tell-gaps').length > before + 1,
    'the repetition',
  )
  expect((await told()).map(({ from }) => from)).toEqual([0, 1, 2, 3])
})

test('the next leader of a partition tells what the one before did not, the next of _gaps knows what is written', async () => {
  await declare(3)
  await eventuallyTold(3)
  // Nobody is told of these under the first epoch.
  nodes.commit([ledBy(0, null, 2, GAPS)])
  await declare(3)
  nodes.commit([ledBy(0, 1, 2)])
  nodes.commit([ledBy(0, 3, 3, GAPS)])
  await eventuallyTold(6)
  for (let epoch = 4; epoch < 8; epoch++) {
    nodes.commit([ledBy(0, 3, epoch, GAPS), ledBy(0, 1, epoch)])
    await declare(1)
    await eventuallyTold(epoch + 3)
  }
  expect((await told()).map(({ from }) => from)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
})

test('damage is told once, whoever finds it again', async () => {
  const topic = nodes.node(2).image.topicById(TOPIC)
  if (topic === undefined) throw new Error('no topic')
  const damage = {
    log: 'l',
    fromOffset: 5,
    toOffset: 9,
    segment: 's',
    bytePosition: 0,
    resumePosition: 1,
    reason: 'crc',
  }
  nodes.node(2).gaps.damaged(topic, 1, damage)
  nodes.node(2).gaps.damaged(topic, 1, damage)
  await eventuallyTold(1)
  nodes.node(1).gaps.damaged(topic, 1, damage)
  nodes.node(1).gaps.damaged(topic, 1, { ...damage, fromOffset: 20, toOffset: 22 })
  await eventuallyTold(2)
  expect(await told()).toMatchObject([
    { offset: 5, from: 5, to: 9, edge: null, reason: 'damage', count: 4 },
    { offset: 20, reason: 'damage' },
  ])
})
