import { describe, expect, it } from 'vitest'
import { createLiveness } from '../../../hub/controller/liveness.ts'
import { createStage, registration } from './stage.ts'

const settings = { heartbeatMs: 300, sessionTimeoutMs: 1_500 }

/** Nodes 1 and 2, alive, and a controller that listens from 0 on and judges each 100 ms. */
function begin(silentSince: [number, number][] = []) {
  const stage = createStage()
  const incarnations = [0, stage.start(1), stage.start(2)]
  const liveness = createLiveness(settings, 0, new Map(silentSince))
  let nowMs = 0
  return {
    ...stage,
    liveness,
    hear: (nodeId: number, more: { incarnation?: number; appliedIndex?: number; index?: number } = {}) => {
      const { incarnation = incarnations[nodeId] ?? 0, appliedIndex = 10, index = 10 } = more
      liveness.heard({ nodeId, incarnation, appliedIndex }, index, nowMs)
    },
    refuse: (nodeId: number) => liveness.refused(nodeId, nowMs),
    judge: () => liveness.judge(stage.image, nowMs),
    /** Judges until `untilMs`, hearing `alive` each 300 ms; gives the first judgement that is one. */
    listen: (untilMs: number, alive: number[] = []) => {
      for (nowMs += 100; nowMs <= untilMs; nowMs += 100) {
        for (const nodeId of alive) {
          const beat = { nodeId, incarnation: incarnations[nodeId] ?? 0, appliedIndex: 10 }
          if (nowMs % 300 === 0) liveness.heard(beat, 10, nowMs)
        }
        const judged = liveness.judge(stage.image, nowMs)
        if (judged.fence.length + judged.unfence.length > 0) return { atMs: nowMs, ...judged }
      }
      nowMs -= 100
      return null
    },
    jump: (ms: number) => {
      nowMs += ms
    },
  }
}

describe('a node', () => {
  it('is given up after a session of silence, and not while it is heard', () => {
    const { listen } = begin()
    expect(listen(1_400)).toBeNull()
    expect(listen(3_000)).toEqual({ atMs: 1_500, fence: [1, 2], unfence: [] })
    const other = begin()
    expect(other.listen(10_000, [1, 2])).toBeNull()
    expect(other.listen(20_000, [1])).toMatchObject({ atMs: 11_400, fence: [2] })
  })

  it('is given up soon where nothing listens, unless it is heard all the same', () => {
    const { listen, refuse, hear } = begin()
    expect(listen(900, [1, 2])).toBeNull()
    refuse(2)
    expect(listen(5_000, [1])).toEqual({ atMs: 1_400, fence: [2], unfence: [] })
    const other = begin()
    other.listen(900, [1, 2])
    other.refuse(2)
    expect(other.listen(5_000, [1, 2])).toBeNull()
    hear(2)
  })

  it('is not taken for silent by a controller that was held up itself', () => {
    const { listen, jump, judge } = begin()
    listen(900, [1, 2])
    jump(60_000)
    expect(judge()).toEqual({ fence: [], unfence: [] })
    jump(60_000)
    expect(judge()).toEqual({ fence: [], unfence: [] })
  })

  it('that led before this one is silent since it was last heard of', () => {
    const { listen } = begin([[2, -1_200]])
    expect(listen(5_000, [1])).toMatchObject({ atMs: 300, fence: [2] })
  })
})

describe('a fenced node', () => {
  it('is live when it is heard under its newest incarnation and knows what it would lead', () => {
    const { call, hear, judge, image } = begin()
    const { incarnation } = call('register-node', registration(2))
    expect(judge().unfence).toEqual([])
    hear(2)
    expect(judge().unfence).toEqual([])
    hear(2, { incarnation, appliedIndex: 8, index: 9 })
    expect(judge().unfence).toEqual([])
    hear(2, { incarnation, appliedIndex: 9, index: 50 })
    expect(judge().unfence).toEqual([2])
    hear(2, { incarnation: incarnation - 1, appliedIndex: 90 })
    expect(judge().unfence).toEqual([2])
    expect(image.node(2)?.fenced).toBe(true)
  })

  it('stays fenced after an orderly stop, when it is silent again and when it is removed', () => {
    const { call, hear, judge, listen, fence } = begin()
    fence(2)
    hear(2)
    expect(judge().unfence).toEqual([2])
    expect(listen(2_000, [1])).toMatchObject({ unfence: [2] })
    call('leave', { nodeId: 2, incarnation: 2 })
    hear(2)
    expect(judge()).toEqual({ fence: [], unfence: [] })
    call('remove-node', { nodeId: 2 })
    hear(2)
    expect(judge()).toEqual({ fence: [], unfence: [] })
  })
})
