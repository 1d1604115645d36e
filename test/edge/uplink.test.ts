import { describe, expect, test } from 'vitest'
import { seededRng } from '../rng.ts'
import { createEdgeStage } from './edge-stage.ts'

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
