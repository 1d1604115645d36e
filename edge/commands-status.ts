import type { Cli } from '../common/cli/cli.ts'
import { printJson } from '../common/cli/output.ts'
import { isTributaryError, messageOf, TributaryError } from '../common/errors.ts'
import { SECOND_MS } from '../common/limits.ts'

/** An edge that does not answer within this is stuck. */
const STATUS_TIMEOUT_MS = 5 * SECOND_MS

/** Asks a running edge by its own HTTP port and prints what it says. */
export async function printEdgeStatus(cli: Cli, http: string, json: boolean): Promise<void> {
  const status = await fetchStatus(http)
  if (json) return printJson(cli.stdout, status)
}

async function fetchStatus(http: string): Promise<unknown> {
  try {
    const response = await fetch(`http://${http}/status`, { signal: AbortSignal.timeout(STATUS_TIMEOUT_MS) })
    if (!response.ok) {
      throw new TributaryError(
        'not_available',
        `the edge at ${http} answered ${response.status}: is it an edge's --http?`,
      )
    }
    return await response.json()
  } catch (error) {
    if (isTributaryError(error)) throw error
    const cause = error instanceof Error && error.cause !== undefined ? error.cause : error
    throw new TributaryError(
      'not_available',
      `no edge answers at ${http} (${messageOf(cause)}): is it running, and is that its --http?`,
      { cause: error },
    )
  }
}
