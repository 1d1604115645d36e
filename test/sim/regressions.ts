import type { Wanted } from './swarm.ts'

/** Seeds that found something once. What a seed does changes with the simulator, so these are worth most while it stays as it is; the planted bugs keep what was learned. */
export const REGRESSIONS: readonly { seed: number; wanted: Wanted; why: string }[] = [
  {
    seed: 508,
    wanted: {},
    why: 'a leader that had not heard of the next one told a reader that what it had of that was lost',
  },
  {
    seed: 36,
    wanted: {},
    why: 'a new controller took the vote of a node it had not heard of yet while another voter was dead: no majority was left',
  },
  {
    seed: 565883509,
    wanted: {},
    why: 'as 36, where the other voter had died with the controller before and was still taken for alive',
  },
  { seed: 2, wanted: {}, why: 'messages were delivered before their receiver was ready' },
  { seed: 4, wanted: {}, why: 'a node whose metadata lagged called a topic unknown' },
  { seed: 109, wanted: {}, why: 'a node that came up without leading the gaps topic ended' },
  { seed: 146, wanted: {}, why: 'a leader passed over what rotted, and its followers held' },
  { seed: 238, wanted: {}, why: 'a new leader told a lower high watermark' },
  { seed: 531, wanted: {}, why: 'a node never learned the address of one that joined while it was away' },
  { seed: 554, wanted: {}, why: 'a hello that came late raised a false alarm' },
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
  {
    seed: 100223,
    wanted: {},
    why: 'who waited for a leader was forgotten when a call to the one before landed late: a lane stood still for ever',
  },
  { seed: 100336, wanted: {}, why: 'a wiped node stayed out when all it had been told of were replaced' },
  { seed: 100446, wanted: {}, why: 'the ack of a later append was overtaken by that of an earlier one' },
  {
    seed: 101476,
    wanted: {},
    why: 'a control batch jumped over records that a full disk had taken back: the replica came in sync without them',
  },
  {
    seed: 3001002,
    wanted: {},
    why: 'a session that waited for a full disk was stored with runs as they were before: those opened meanwhile were forgotten at the next start, and their records never sent',
  },
]
