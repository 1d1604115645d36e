import type { Command } from 'commander'
import { InvalidArgumentError, Option } from 'commander'
import type { TributaryClient } from '../client.ts'
import type { ProduceRecord } from '../client-producer.ts'
import { isTributaryError, TributaryError } from '../errors.ts'
import { MIB } from '../limits.ts'
import type { Cli } from './cli.ts'
import { createLineCutter } from './lines.ts'
import type { ClientFlags } from './options.ts'
import { examples, wholeNumber, withClient, withClientOptions } from './options.ts'

/** Input read and not yet acked by the hub. */
const MAX_PENDING_BYTES = 8 * MIB

interface ProduceFlags extends ClientFlags {
  key?: string
  keySeparator?: string
  header: [string, string][]
  partition?: number
  acks: '0' | '1' | 'all'
  json?: true
}

/** Adds `tributary produce`. */
export function addProduceCommand(program: Command, cli: Cli): void {
  const produce = program
    .command('produce')
    .argument('<topic>')
    .description('Write the lines of the standard input to a topic, one record a line')
  withClientOptions(produce)
    .option('--key <key>', 'key of every record')
    .addOption(
      new Option('--key-separator <text>', 'each line is key, separator, value')
        .conflicts('key')
        .argParser(nonEmpty),
    )
    .option('--header <name=value>', 'header of every record; may be repeated', addHeader, [])
    .option('--partition <n>', 'partition to write to (default: by key, else spread)', wholeNumber)
    .addOption(
      new Option('--acks <acks>', 'who must have a record before it counts')
        .choices(['0', '1', 'all'])
        .default('all'),
    )
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      examples(
        'echo 21.5 | tributary produce telemetry --key kitchen',
        "printf 'a:1\\nb:2\\n' | tributary produce telemetry --key-separator :",
        'tributary produce logs --header host=web1 < /var/log/syslog',
      ),
    )
    .action((topic: string, flags: ProduceFlags) =>
      withClient(cli, flags, async client => {
        const records = await produceLines(topic, flags, client, cli)
        if (flags.json) cli.stdout.write(`${JSON.stringify({ topic, records })}\n`)
        else cli.stderr.write(`${records} ${records === 1 ? 'record' : 'records'} to ${topic}\n`)
      }),
    )
}

async function produceLines(
  topic: string,
  flags: ProduceFlags,
  client: TributaryClient,
  cli: Cli,
): Promise<number> {
  const { clock } = await cli.env()
  const toRecord = recordMaker(flags)
  // By REST, which fails at once where the hub is not there; writing then outlasts its restarts. An unknown topic is the hub's
  // to make or to refuse (autoCreateTopics) when the first record comes.
  await client.topics.describe(topic).catch((error: unknown) => {
    if (!isTributaryError(error, 'unknown_topic')) throw error
  })
  const producer = client.producer(topic, { acks: flags.acks === '0' ? 0 : flags.acks === '1' ? 1 : 'all' })
  const window = createSendWindow()
  const cutter = createLineCutter()
  const stop = cli.stopSignal()
  stop.addEventListener('abort', () => cli.stdin.destroy(), { once: true })
  let lines = 0
  const send = async (found: readonly Uint8Array[]): Promise<void> => {
    if (found.length === 0) return
    const records = found.map(line => toRecord(line, ++lines, clock.nowMs()))
    const bytes = found.reduce((sum, line) => sum + line.length, 0)
    await window.add(producer.send(records), records.length, bytes)
  }
  try {
    for await (const chunk of cli.stdin) await send(cutter.cut(chunk))
  } catch (error) {
    // Interrupted: what was read is produced, and that is all that was asked for.
    if (!stop.aborted) throw error
  }
  const rest = cutter.rest()
  if (rest !== null) await send([rest])
  await window.settled()
  await producer.close()
  return lines
}

/** Bounds what was read and is not yet acked; the first failure ends the command. */
function createSendWindow() {
  const pending: { acked: Promise<unknown>; bytes: number }[] = []
  let pendingBytes = 0
  let ackedRecords = 0
  const oldest = async (): Promise<void> => {
    const first = pending.shift()
    if (first === undefined) return
    pendingBytes -= first.bytes
    try {
      await first.acked
    } catch (cause) {
      if (!isTributaryError(cause)) throw cause
      throw new TributaryError(cause.code, `${cause.message} (${ackedRecords} records were written before)`, {
        cause,
      })
    }
  }
  return {
    add: async (sent: Promise<readonly unknown[]>, records: number, bytes: number): Promise<void> => {
      const acked = sent.then(() => {
        ackedRecords += records
      })
      // Told when its turn comes.
      acked.catch(() => undefined)
      pending.push({ acked, bytes })
      pendingBytes += bytes
      while (pendingBytes > MAX_PENDING_BYTES) await oldest()
    },
    settled: async (): Promise<void> => {
      while (pending.length > 0) await oldest()
    },
  }
}

function recordMaker(
  flags: ProduceFlags,
): (line: Uint8Array, number: number, nowMs: number) => ProduceRecord {
  const headers = flags.header.map(([key, value]) => ({ key, value: Buffer.from(value) }))
  const fixedKey = flags.key === undefined ? null : Buffer.from(flags.key)
  const separator = flags.keySeparator
  const place = flags.partition === undefined ? {} : { partition: flags.partition }
  return (line, number, timestampMs) => {
    if (separator === undefined) return { key: fixedKey, value: line, headers, timestampMs, ...place }
    const at = Buffer.from(line.buffer, line.byteOffset, line.length).indexOf(separator)
    if (at < 0) {
      throw new TributaryError(
        'invalid_argument',
        `line ${number} has no ${JSON.stringify(separator)} between key and value (--key-separator)`,
      )
    }
    const value = line.subarray(at + Buffer.byteLength(separator))
    return { key: line.subarray(0, at), value, headers, timestampMs, ...place }
  }
}

function nonEmpty(text: string): string {
  if (text === '') throw new InvalidArgumentError('Expected at least one character.')
  return text
}

function addHeader(text: string, headers: [string, string][]): [string, string][] {
  const at = text.indexOf('=')
  if (at < 1) throw new InvalidArgumentError('Expected name=value.')
  return [...headers, [text.slice(0, at), text.slice(at + 1)]]
}
