import { afterEach, beforeEach, expect, test } from 'vitest'
import { nodeEnv } from '../common/env-node.ts'
import type { SpineStage } from './spine-stage.ts'
import { createSpineStage, expectAll, expectDead, expectTold, movableClock } from './spine-stage.ts'

/** Edge agent and hub together: what the part 6.5 asks for, and that gaps say what is missing. */

let stage: SpineStage

beforeEach(async () => {
  stage = await createSpineStage()
  await stage.startHub()
})

afterEach(() => stage.close())

test('a reading gets through, in order and once, over restarts of both', async () => {
  await stage.startEdge()
  await stage.publish(100)
  await stage.stopEdge()
  await stage.startEdge()
  await stage.publish(100)
  await stage.stopHub()
  await stage.publish(100)
  await stage.startHub()
  await stage.publish(100)
  await stage.drained()
  const stored = await stage.stored()
  expectAll(stage, stored)
  expect(stored.numbers.length).toBe(400)
  expect(stored.gaps).toEqual([])
  expect(stored.runs.map(run => run.reason)).toEqual(['first', 'next'])
  const [edge] = stage.hub.ports.fleet.local()
  expect(edge?.alarms).toEqual([])
})

test('a hub restored from an older copy gets again what is kept', async () => {
  await stage.startEdge()
  await stage.publish(50)
  await stage.drained()
  await stage.stopHub()
  await stage.copy('hub', 'old')
  await stage.startHub()
  await stage.publish(50)
  await stage.drained()
  await stage.stopHub()
  await stage.copy('old', 'hub')
  await stage.startHub()
  await stage.publish(50)
  await stage.drained()
  const stored = await stage.stored()
  expectAll(stage, stored)
  expect(stored.numbers.length).toBe(150)
})

test('a hub that went back behind what is kept gets a gap for the rest', async () => {
  await stage.startEdge({ topics: { '*': { keepAckedMs: 0 } }, storage: { segmentBytes: 64 * 1024 } })
  await stage.publish(20)
  await stage.drained()
  await stage.stopHub()
  await stage.copy('hub', 'old')
  await stage.startHub()
  await stage.publish(300, 1_000)
  await stage.drained(status => status.connected && (status.lanes[0]?.startOffset ?? 0) > 100)
  await stage.stopHub()
  await stage.copy('old', 'hub')
  await stage.startHub()
  await stage.publish(20)
  await stage.drained()
  const stored = await stage.stored()
  expectAll(stage, stored)
  expect(stored.gaps.map(gap => gap.reason)).toEqual(['hub-rollback'])
  await expectTold(stage, 'telemetry')
  expect(await stage.hubAlarms()).toContain('hub-rollback')
  expect((await stage.status()).alarms.map(alarm => alarm.kind)).toContain('hub-rollback')
})

test('another cluster gets all that is kept, and the note that it moved', async () => {
  await stage.startEdge()
  await stage.publish(50)
  await stage.drained()
  await stage.stopHub()
  await stage.publish(50)
  await stage.startHub('other')
  await stage.publish(50)
  await stage.drained()
  const stored = await stage.stored()
  expectAll(stage, stored)
  expect(stored.numbers.length).toBe(150)
  expect(stored.runs[0]?.reason).toBe('moved')
})

test('another cluster gets what is kept; what was freed before is said to have moved', async () => {
  await stage.startEdge({ topics: { '*': { keepAckedMs: 0 } }, storage: { segmentBytes: 64 * 1024 } })
  await stage.publish(300, 1_000)
  await stage.drained(status => status.connected && (status.lanes[0]?.startOffset ?? 0) > 100)
  const atFirst = await stage.stored()
  await stage.stopHub()
  await stage.publish(50)
  await stage.startHub('other')
  await stage.drained()
  const stored = await stage.stored()
  const everywhere = new Set([...atFirst.numbers, ...stored.numbers])
  expect(stage.acked.filter(number => !everywhere.has(number))).toEqual([])
  expect(stored.numbers).toEqual(stage.acked.slice(stored.numbers[0]))
  expect(stored.runs[0]?.reason).toBe('moved')
  await expectTold(stage, 'telemetry')
  expect((await stage.status()).alarms.map(alarm => alarm.kind)).toContain('moved')
})

test('a directory cloned while running forks: nothing is lost, and it is said', async () => {
  await stage.startEdge()
  await stage.publish(50)
  await stage.drained()
  await stage.stopEdge()
  await stage.copy('edge', 'clone')
  await stage.startEdge()
  await stage.publish(50)
  await stage.drained()
  await stage.stopEdge()
  await stage.startEdge({ data: `${stage.dir}/clone` })
  await stage.publish(50)
  await stage.drained()
  const stored = await stage.stored()
  expect(new Set(stored.numbers)).toEqual(new Set(stage.acked))
  expect(stored.numbers.length).toBe(150)
  expect(stored.runs.map(run => run.reason)).toContain('fork')
  expect(await stage.hubAlarms()).toContain('fork')
  expect((await stage.status()).alarms.map(alarm => alarm.kind)).toContain('fork')
  await expectTold(stage, 'telemetry')
  // The original comes back: it is the older one now.
  await stage.stopEdge()
  await stage.startEdge()
  await stage.publish(50)
  await stage.drained()
  const after = await stage.stored()
  expect(new Set(after.numbers)).toEqual(new Set(stage.acked))
})

test('two directories of one edge when the hub goes back: each sends again what the hub lost of it, and no more', async () => {
  const clone = { data: `${stage.dir}/clone` }
  const publishFrom = async (directory: { data?: string }, count: number) => {
    await stage.startEdge(directory)
    await stage.publish(count)
    await stage.drained()
    await stage.stopEdge()
  }
  await publishFrom({}, 50)
  await stage.copy('edge', 'clone')
  await publishFrom({}, 10)
  await publishFrom(clone, 10)
  await stage.stopHub()
  await stage.copy('hub', 'old')
  await stage.startHub()
  await publishFrom({}, 20)
  await publishFrom(clone, 30)
  await stage.stopHub()
  await stage.startHub('old')
  // The first finds its own past behind the other's run, the second behind what the first sent again.
  await publishFrom({}, 5)
  await publishFrom(clone, 5)
  const stored = await stage.stored()
  expect(stored.numbers.toSorted((left, right) => left - right)).toEqual(stage.acked)
  expect(stored.gaps.filter(({ count }) => count !== null)).toEqual([])
  await expectTold(stage, 'telemetry')
})

test('a directory rolled back with a backlog sends it under a new run', async () => {
  await stage.startEdge()
  await stage.publish(50)
  await stage.drained()
  await stage.stopHub()
  await stage.publish(50)
  await stage.stopEdge()
  await stage.copy('edge', 'backup')
  await stage.startHub()
  await stage.startEdge()
  await stage.drained()
  await stage.stopEdge()
  await stage.startEdge({ data: `${stage.dir}/backup` })
  await stage.publish(10)
  await stage.drained()
  const stored = await stage.stored()
  expect(new Set(stored.numbers)).toEqual(new Set(stage.acked))
  // The backlog came twice, and the fork says so.
  expect(stored.numbers.length).toBe(160)
  expect(stored.gaps.map(gap => gap.reason)).toContain('fork')
  await expectTold(stage, 'telemetry')
  expect(await stage.hubAlarms()).toContain('fork')
})

test('a wiped directory shows as a gap of unknown count', async () => {
  await stage.startEdge()
  await stage.publish(50)
  await stage.drained()
  await stage.stopEdge()
  await stage.startEdge({ data: `${stage.dir}/empty` })
  await stage.publish(50)
  await stage.drained()
  const stored = await stage.stored()
  expect(stored.numbers).toEqual(stage.acked)
  expect(stored.gaps.map(({ reason, count }) => ({ reason, count }))).toEqual([
    { reason: 'wiped', count: null },
  ])
  await expectTold(stage, 'telemetry')
})

test('a topic deleted and made again while the edge is offline: dead letters, a gap, and on', async () => {
  await stage.startEdge({ rules: [{ match: 'n/#', topic: 'doomed' }] })
  await stage.publish(50)
  await stage.drained()
  await stage.stopEdge()
  const { topics } = stage.hub.ports
  await topics.delete('doomed')
  await topics.create({ name: 'doomed', partitions: 3 })
  await stage.stopHub()
  await stage.startEdge({ rules: [{ match: 'n/#', topic: 'doomed' }] })
  await stage.publish(50)
  await stage.startHub()
  await stage.drained()
  await stage.publish(50)
  await stage.drained()
  const dead = await stage.stored('_dead')
  const stored = await stage.stored('doomed')
  expect(dead.numbers).toEqual(stage.acked.slice(50, 100))
  expect(stored.numbers).toEqual(stage.acked.slice(100))
  const gaps = stored.gaps.filter(gap => gap.count !== null)
  expect(gaps.map(({ reason, localFrom, localTo }) => ({ reason, localFrom, localTo }))).toEqual([
    { reason: 'refused', localFrom: 50, localTo: 100 },
  ])
  await expectTold(stage, 'doomed')
  await expectDead(stage, 'doomed', stage.acked.slice(50, 100), /topic_deleted/)
  expect((await stage.status()).deadRecords).toBe(50)
})

test('a topic deleted for good: its records become dead letters, other topics go on', async () => {
  const rules = [
    { match: 'n/0', topic: 'doomed' },
    { match: 'n/#', topic: 'fine' },
  ]
  await stage.startEdge({ rules })
  await stage.publish(70)
  await stage.drained()
  await stage.hub.ports.topics.delete('doomed')
  await stage.publish(70)
  await stage.drained(status => status.lagRecords === 0)
  const fine = await stage.stored('fine')
  const dead = await stage.stored('_dead')
  expect(fine.numbers).toEqual(stage.acked.filter(number => number % 7 !== 0))
  expect(dead.numbers).toEqual(stage.acked.filter(number => number % 7 === 0 && number >= 70))
})

test('a record too large for the topic becomes a dead letter, the ones around it do not', async () => {
  await stage.hub.ports.topics.create({ name: 'telemetry', config: { maxRecordBytes: 1_024 } })
  await stage.startEdge()
  await stage.publish(20)
  await stage.publish(1, 2_000)
  await stage.publish(20)
  await stage.publish(2, 2_000)
  await stage.publish(20)
  await stage.drained()
  const stored = await stage.stored()
  const dead = await stage.stored('_dead')
  expectAll(stage, stored)
  expect(dead.numbers).toEqual([20, 41, 42])
  expect(stored.numbers.length).toBe(60)
  expect(stored.gaps.every(gap => gap.reason === 'refused')).toBe(true)
  await expectTold(stage, 'telemetry')
  await expectDead(stage, 'telemetry', [20, 41, 42], /record_too_large/)
})

test('lanes changed by config: the old lanes drain first, nothing is lost or repeated', async () => {
  await stage.startEdge({ topics: { '*': { lanes: 1 } } })
  await stage.publish(70)
  await stage.drained()
  await stage.stopHub()
  await stage.publish(70)
  await stage.stopEdge()
  await stage.startEdge({ topics: { '*': { lanes: 3, partitionBy: 'key' } } })
  await stage.publish(70)
  await stage.stopEdge()
  await stage.startEdge({ topics: { '*': { lanes: 2, partitionBy: 'key' } } })
  await stage.publish(70)
  await stage.startHub()
  await stage.drained()
  const stored = await stage.stored()
  expect([...stored.numbers].sort((left, right) => left - right)).toEqual(stage.acked)
  expect(stored.gaps).toEqual([])
  const { lanes } = await stage.status()
  expect(lanes.map(lane => lane.lane)).toEqual([0, 1, 2])
})

test('a wall clock that goes a day forward and back deletes nothing, and edge times never fall', async () => {
  await stage.close()
  const env = nodeEnv()
  const clock = movableClock(env.clock)
  stage = await createSpineStage({ ...env, clock })
  await stage.startHub()
  const overrides = { topics: { '*': { keepAckedMs: 3_600_000 } }, storage: { segmentBytes: 64 * 1024 } }
  await stage.startEdge(overrides)
  await stage.publish(200, 1_000)
  await stage.drained()
  clock.moveDays(1)
  await stage.publish(50)
  await stage.drained(status => status.alarms.some(alarm => alarm.kind === 'clock'))
  expect((await stage.status()).lanes[0]?.startOffset).toBe(0)
  clock.moveDays(-1)
  await stage.publish(50)
  await stage.stopEdge()
  await stage.startEdge(overrides)
  await stage.publish(50)
  await stage.drained()
  expectAll(stage, await stage.stored())
  const times = await edgeTimes(stage)
  expect(times.length).toBe(350)
  expect(times).toEqual([...times].sort((left, right) => left - right))
})

async function edgeTimes({ hub }: SpineStage): Promise<number[]> {
  const times: number[] = []
  for (let partition = 0; partition < 12; partition++) {
    const url = `http://127.0.0.1:${hub.address.port}/v1/topics/telemetry/records?partition=${partition}&offset=0&limit=1000`
    const page: { records: { headers: Record<string, string> | { key: string; value: string }[] }[] } =
      JSON.parse(await (await fetch(url)).text())
    for (const { headers } of page.records) {
      const time = Array.isArray(headers)
        ? headers.find(({ key }) => key === 'edge.time')?.value
        : headers['edge.time']
      times.push(Number(time))
    }
  }
  return times
}
