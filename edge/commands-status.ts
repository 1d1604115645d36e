import type { Cli } from '../common/cli/cli.ts'
import { printJson, printTable, showDuration, showSize, showTime } from '../common/cli/output.ts'
import { isTributaryError, messageOf, TributaryError } from '../common/errors.ts'
import { SECOND_MS } from '../common/limits.ts'

/** An edge that does not answer within this is stuck. */
const STATUS_TIMEOUT_MS = 5 * SECOND_MS

/** Asks a running edge by its own HTTP port and prints what it says; rejects with `not_available` where none answers. */
export async function printEdgeStatus(cli: Cli, http: string, json: boolean): Promise<void> {
  const answer = await fetchStatus(http)
  if (json) return printJson(cli.stdout, answer)
  const status = await parseStatus(answer, http)
  const lag = status.lagRecords === 0 ? 'no lag' : `${counted(status.lagRecords, 'record')} behind`
  const since = status.oldestMs === null ? '' : `, the oldest of ${showTime(status.oldestMs)}`
  const { lastError } = status.uplink
  const byPolicy = status.conflatedReadings + status.thinnedReadings
  const policies =
    byPolicy === 0
      ? ''
      : `by policy ${counted(status.conflatedReadings, 'reading')} conflated, ${status.thinnedReadings} thinned\n`
  const why = status.connected || lastError === null ? '' : `  ${lastError}\n`
  cli.stdout.write(
    `${status.id}  ${status.version}  up ${showDuration(status.uptimeMs)}\n` +
      `hub ${status.hub} ${status.connected ? 'connected' : 'NOT connected'}, ${lag}${since}\n` +
      `${why}disk ${showSize(status.disk.usedBytes)} of ${showSize(status.disk.budgetBytes)}, ` +
      `${counted(status.droppedRecords, 'record')} dropped, ${status.deadRecords} dead\n${policies}\n`,
  )
  const headings = ['topic', 'lane', 'start', 'end', 'sent', 'committed', 'lag', 'dropped', 'gaps']
  if (byPolicy > 0) headings.push('held', 'conflated', 'thinned')
  const rows = status.lanes.map(lane => [
    lane.topic,
    lane.lane,
    lane.startOffset,
    lane.endOffset,
    lane.sentOffset,
    lane.committedOffset,
    lane.lagRecords,
    lane.droppedRecords,
    lane.gaps.length,
    ...(byPolicy > 0 ? [lane.heldReadings, lane.conflatedReadings, lane.thinnedReadings] : []),
  ])
  await printTable(cli.stdout, headings, rows)
  for (const alarm of status.alarms) cli.stdout.write(`alarm ${alarm.kind}: ${alarm.message}\n`)
}

const counted = (count: number, what: string): string => `${count} ${what}${count === 1 ? '' : 's'}`

async function fetchStatus(http: string): Promise<unknown> {
  try {
    const response = await fetch(`http://${http}/status`, { signal: AbortSignal.timeout(STATUS_TIMEOUT_MS) })
    if (!response.ok) throw notAnEdge(http, `answered ${response.status}`)
    return await response.json()
  } catch (error) {
    if (isTributaryError(error)) throw error
    if (error instanceof SyntaxError) throw notAnEdge(http, 'answered no JSON')
    const cause = error instanceof Error && error.cause !== undefined ? error.cause : error
    throw new TributaryError(
      'not_available',
      `no edge answers at ${http} (${messageOf(cause)}): is it running, and is that its --http?`,
      { cause: error },
    )
  }
}

function notAnEdge(http: string, what: string): TributaryError {
  return new TributaryError('not_available', `${http} ${what}: is that the --http of an edge?`)
}

/** What is shown of EdgeStatus (report.ts); an edge of another version may say more. */
async function parseStatus(answer: unknown, http: string) {
  const { z } = await import('zod')
  const lane = z.object({
    topic: z.string(),
    lane: z.number(),
    startOffset: z.number(),
    endOffset: z.number(),
    sentOffset: z.number(),
    committedOffset: z.number(),
    lagRecords: z.number(),
    droppedRecords: z.number(),
    gaps: z.array(z.unknown()),
    heldReadings: z.number(),
    conflatedReadings: z.number(),
    thinnedReadings: z.number(),
  })
  const status = z.object({
    id: z.string(),
    version: z.string(),
    uptimeMs: z.number(),
    hub: z.string(),
    connected: z.boolean(),
    uplink: z.object({ lastError: z.string().nullable() }),
    lagRecords: z.number(),
    oldestMs: z.number().nullable(),
    droppedRecords: z.number(),
    deadRecords: z.number(),
    conflatedReadings: z.number(),
    thinnedReadings: z.number(),
    disk: z.object({ usedBytes: z.number(), budgetBytes: z.number() }),
    lanes: z.array(lane),
    alarms: z.array(z.object({ kind: z.string(), message: z.string() })),
  })
  const parsed = status.safeParse(answer)
  if (!parsed.success) throw notAnEdge(http, 'answered something else')
  return parsed.data
}
