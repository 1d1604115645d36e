import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Fork, SessionState } from '../../../hub/controller/sessions.ts'
import {
  CLONE_WINDOW_MS,
  confirmSession,
  grantSession,
  NO_SESSION,
} from '../../../hub/controller/sessions.ts'

/** The hub's side: keeps what was granted and confirmed, as the metadata does. */
function hub(state: SessionState = NO_SESSION) {
  let fork: Fork | null = null
  let current = state
  return {
    connect(presented: number, nowMs = 0) {
      const grant = grantSession(current, fork, presented, nowMs)
      current = grant.state
      fork = grant.fork
      return grant
    },
    start(session: number): boolean {
      const confirmed = confirmSession(current, session)
      if (confirmed !== null) current = confirmed
      return confirmed !== null
    },
    save: () => ({ current, fork }),
    restore(saved: { current: SessionState; fork: Fork | null }) {
      current = saved.current
      fork = saved.fork
    },
  }
}

describe('sessions', () => {
  it('grants 1 to a new edge and one more each time', () => {
    const h = hub()
    expect(h.connect(0)).toMatchObject({ session: 1, verdict: 'ok', alarm: null })
    expect(h.start(1)).toBe(true)
    expect(h.connect(1)).toMatchObject({ session: 2, verdict: 'ok' })
  })

  it('takes a number whose start was lost as confirmed', () => {
    const h = hub()
    h.connect(0)
    expect(h.connect(1)).toMatchObject({ session: 2, verdict: 'ok' })
    expect(h.connect(0).verdict).toBe('fork')
  })

  it('takes any grant whose answer came late, whichever of several', () => {
    const h = hub()
    h.connect(0)
    h.connect(0)
    h.connect(0)
    expect(h.connect(2).verdict).toBe('ok')
    expect(h.connect(1).verdict).toBe('fork')
    expect(h.connect(3).verdict).toBe('ok')
  })

  it('fences a start that is not the newest', () => {
    const h = hub()
    h.connect(0)
    h.connect(0)
    expect(h.start(1)).toBe(false)
    expect(h.start(2)).toBe(true)
    expect(h.start(2)).toBe(true)
  })

  it('calls an older number a fork, again when the answer is lost, and not a clone for that', () => {
    const h = hub()
    for (const session of [1, 2, 3]) {
      h.connect(session - 1)
      h.start(session)
    }
    expect(h.connect(1, 0)).toMatchObject({ verdict: 'fork', alarm: 'fork', session: 4 })
    expect(h.connect(1, 1)).toMatchObject({ verdict: 'fork', alarm: 'fork', session: 5 })
    expect(h.start(5)).toBe(true)
    expect(h.connect(5)).toMatchObject({ verdict: 'ok', alarm: null })
  })

  it('calls a number from the future hub-rollback, again when the answer is lost', () => {
    const h = hub()
    expect(h.connect(7)).toMatchObject({ verdict: 'hub-rollback', alarm: 'hub-rollback', session: 8 })
    expect(h.connect(7)).toMatchObject({ verdict: 'hub-rollback', session: 9 })
    expect(h.start(9)).toBe(true)
    expect(h.connect(9)).toMatchObject({ verdict: 'ok', session: 10 })
  })

  it('raises clone when two agents take turns, within the window alone', () => {
    for (const [gapMs, alarm] of [
      [1_000, 'clone'],
      [CLONE_WINDOW_MS + 1, 'fork'],
    ] as const) {
      const h = hub()
      let [original, clone] = [h.connect(0).session, 1]
      h.start(original)
      clone = h.connect(clone).session
      h.start(clone)
      const first = h.connect(original, 0)
      expect(first).toMatchObject({ verdict: 'fork', alarm: 'fork' })
      original = first.session
      h.start(original)
      expect(h.connect(clone, gapMs)).toMatchObject({ verdict: 'fork', alarm })
    }
  })

  type Step = 'connect' | 'lost' | 'unstored' | 'unstarted'

  /** One agent: stores the number granted, unless the answer is lost or it crashes before. */
  function run(h: ReturnType<typeof hub>, held: number, step: Step) {
    const { session, verdict } = h.connect(held)
    if (step === 'lost' || step === 'unstored') return { held, verdict, appended: false }
    const appended = step === 'connect' && h.start(session)
    return { held: session, verdict, appended }
  }

  const steps = fc.constantFrom<Step>('connect', 'lost', 'unstored', 'unstarted')

  it('never takes lost answers for a fork', () => {
    fc.assert(
      fc.property(fc.array(steps, { maxLength: 60 }), plan => {
        const h = hub()
        let held = 0
        for (const step of plan) {
          const outcome = run(h, held, step)
          expect(outcome.verdict).toBe('ok')
          held = outcome.held
        }
      }),
    )
  })

  it('always sees a directory that another one has overtaken', () => {
    const agents = fc.array(fc.tuple(fc.boolean(), steps), { maxLength: 60 })
    fc.assert(
      fc.property(fc.array(steps, { maxLength: 10 }), agents, (before, plan) => {
        const h = hub()
        let start = 0
        for (const step of before) start = run(h, start, step).held
        const held = [start, start]
        const overtaken = [false, false]
        for (const [second, step] of plan) {
          const agent = second ? 1 : 0
          const outcome = run(h, held[agent] ?? 0, step)
          if (overtaken[agent]) expect(outcome.verdict).toBe('fork')
          // An agent stores the verdict with the number, so from then on it knows.
          if (outcome.held !== held[agent]) overtaken[agent] = false
          held[agent] = outcome.held
          if (outcome.appended) overtaken[1 - agent] = true
        }
      }),
    )
  })

  it('sees that the hub went back, for edges it had confirmed later', () => {
    fc.assert(
      fc.property(fc.array(steps, { maxLength: 10 }), fc.nat(5), (before, more) => {
        const h = hub()
        let held = 0
        for (const step of before) held = run(h, held, step).held
        held = run(h, held, 'connect').held
        const saved = h.save()
        for (let round = 0; round <= more; round++) held = run(h, held, 'connect').held
        h.restore(saved)
        expect(run(h, held, 'lost').verdict).toBe('hub-rollback')
        const told = run(h, held, 'connect')
        expect(told.verdict).toBe('hub-rollback')
        expect(run(h, told.held, 'connect').verdict).toBe('ok')
      }),
    )
  })
})
