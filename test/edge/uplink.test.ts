import { describe, expect, test } from 'vitest'
import { seededRng } from '../rng.ts'
import { createEdgeStage, until } from './edge-stage.ts'

/** Store and uplink against a real hub engine, on disks that crash and links that break before or after any frame. */

const ROUNDS = 8

describe.each(Array.from({ length: 6 }, (_, index) => index + 1))('seed %i', seed => {
  test('acked is stored once and in order, whatever crashes and breaks', async () => {
    const rng = seededRng(seed)
    const stage = createEdgeStage(rng)
    await stage.openHub()
    await stage.openEdge()
    const acked: string[] = []
    /** Neither acked nor refused when the edge crashed: may be there, or not. */
    let next = 0
    for (let round = 0; round < ROUNDS; round++) {
      stage.fate = () => (rng.float() < 0.03 ? (rng.float() < 0.5 ? 'cut-before' : 'cut-after') : 'deliver')
      const batch: Promise<void>[] = []
      for (let index = 0; index < 1 + rng.below(40); index++) {
        const id = `${next++}`
        const topic = rng.float() < 0.7 ? 'telemetry' : 'other'
        batch.push(
          stage.append(`${topic} ${id}`, { topic }).then(error => {
            if (error === undefined) acked.push(`${topic} ${id}`)
          }),
        )
        if (rng.float() < 0.1) await new Promise(resolve => setImmediate(resolve))
      }
      const dice = rng.float()
      if (dice < 0.25) {
        stage.crashEdge()
        await stage.openEdge()
      } else {
        await Promise.all(batch)
        if (dice < 0.45) {
          stage.crashHub()
          await stage.openHub()
        } else if (dice < 0.6) stage.cut()
        else if (dice < 0.7) {
          await stage.closeEdge()
          await stage.openEdge()
        }
      }
    }
    stage.fate = () => 'deliver'
    await stage.append('telemetry end')
    await stage.append('other end', { topic: 'other' })
    await stage.drained()
    for (const topic of ['telemetry', 'other']) {
      const { ids, gaps } = await stage.stored(topic)
      expect(gaps).toEqual([])
      expect(new Set(ids).size, 'none stands twice').toBe(ids.length)
      const numbers = ids.slice(0, -1).map(id => Number(id.split(' ')[1]))
      expect(numbers, 'in order').toEqual([...numbers].sort((left, right) => left - right))
      const missing = acked.filter(id => id.startsWith(`${topic} `) && !ids.includes(id))
      expect(missing, 'acked and not stored').toEqual([])
    }
    expect(stage.store.alarms.list().filter(({ kind }) => kind !== 'fenced')).toEqual([])
    await stage.closeEdge()
  }, 30_000)
})

test.each([1, 2])(
  'seed %i: what policies drop is summarised at the hub once, whatever crashes and breaks',
  async seed => {
    const rng = seededRng(seed)
    const stage = createEdgeStage(rng)
    const topics = { conflated: { conflate: { windowMs: 100 } }, thinned: { thin: { everyMs: 100 } } }
    await stage.openHub()
    await stage.openEdge({ topics })
    const offered = { conflated: 0, thinned: 0 }
    const acked: Record<keyof typeof offered, string[]> = { conflated: [], thinned: [] }
    for (let round = 0; round < ROUNDS; round++) {
      stage.fate = () => (rng.float() < 0.03 ? (rng.float() < 0.5 ? 'cut-before' : 'cut-after') : 'deliver')
      const batch: Promise<void>[] = []
      for (let index = rng.below(40); index >= 0; index--) {
        const topic = rng.float() < 0.5 ? 'conflated' : 'thinned'
        const id = `${offered[topic]++}`
        batch.push(
          stage.append(id, { topic }).then(error => {
            if (error === undefined) acked[topic].push(id)
          }),
        )
        if (rng.float() < 0.1) await new Promise(resolve => setImmediate(resolve))
      }
      const dice = rng.float()
      if (dice >= 0.3) await Promise.all(batch)
      if (dice < 0.3) {
        stage.crashEdge()
        await stage.openEdge({ topics })
      } else if (dice < 0.45) {
        stage.crashHub()
        await stage.openHub()
      } else if (dice < 0.6) stage.cut()
      else if (dice < 0.9) {
        // Long enough for a window to end, which is the only thing waited for.
        const { windows } = stage.store
        await until('what is held is in the log', () => windows.heldBytes() === 0)
      }
    }
    stage.fate = () => 'deliver'
    await stage.closeEdge()
    await stage.openEdge()
    await stage.append('0', { topic: 'other' })
    await stage.drained()
    for (const topic of ['conflated', 'thinned'] as const) {
      const { ids, gaps } = await stage.stored(topic)
      expect(new Set(ids).size, 'none stands twice').toBe(ids.length)
      expect(ids.map(Number)).toEqual(ids.map(Number).toSorted((left, right) => left - right))
      expect(new Set(gaps.map(({ reason }) => reason))).toEqual(new Set([topic]))
      const places = gaps.map(({ run, from }) => `${run} ${from}`)
      expect(new Set(places).size, 'each summary once').toBe(gaps.length)
      const summarised = gaps.reduce((sum, { count }) => sum + (count ?? 0), 0)
      const missing = acked[topic].filter(id => !ids.includes(id)).length
      expect(summarised).toBeGreaterThanOrEqual(missing)
      expect(ids.length + summarised).toBeLessThanOrEqual(offered[topic])
      if (topic === 'conflated')
        expect(Number(ids.at(-1))).toBeGreaterThanOrEqual(Number(acked[topic].at(-1)))
    }
    await stage.closeEdge()
  },
  30_000,
)
