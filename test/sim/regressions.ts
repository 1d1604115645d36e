import type { Wanted } from './swarm.ts'

/** Seeds that found something once. What a seed does changes with the simulator, so these are worth most while it stays as it is. */
export const REGRESSIONS: readonly { seed: number; wanted: Wanted; why: string }[] = [
  {
    seed: 508,
    wanted: {},
    why: 'a leader that had not heard of the next one told a reader that what it had of that was lost',
  },
  {
    seed: 147,
    wanted: {},
    why: 'a leader and a voter whose directory was put back from a copy said the same to each other for ever, as fast as they could',
  },
  {
    seed: 183,
    wanted: {},
    why: 'as 147; and where another one led, the voter ended at each start, for its log did not fit what it took for committed',
  },
  {
    seed: 2051,
    wanted: {
      nodes: 3,
      faults: [
        ...(['node kill', 'node power', 'node restart', 'node pause', 'node slow disk'] as const),
        ...(['node sync failed', 'node disk full', 'all nodes power', 'node wipe', 'node added'] as const),
        ...(['node drained', 'node removed', 'leaders balanced', 'partition one way'] as const),
        ...(['partition both ways', 'node cut off', 'link cut', 'link stalled', 'dials refused'] as const),
        'slow network',
      ],
    },
    why: 'a node that joined by others never found the controller, which had joined since',
  },
]
