import type { Command } from 'commander'
import { InvalidArgumentError, Option } from 'commander'
import { parseHubUrls } from '../address.ts'
import type { TributaryClient } from '../client.ts'
import { messageOf, systemErrorCode, TributaryError } from '../errors.ts'
import { MAX_CONFIG_FILE_BYTES } from '../limits.ts'
import { certificatesFrom } from '../tls.ts'
import { parseTokens } from '../tokens.ts'
import { parseDuration, parseSize } from '../units.ts'
import type { Cli } from './cli.ts'

/** The flags of every command that talks to a hub. */
export interface ClientFlags {
  hub: string
  tokenFile?: string
  ca?: string
}

/** Adds `--hub`, `--token-file` and `--ca`, each with its variable. */
export function withClientOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--hub <url,...>', 'the hub, by one of its nodes or several')
        .env('TRIBUTARY_HUB')
        .default('ws://127.0.0.1:7600')
        .argParser(hubUrls),
    )
    .addOption(
      new Option('--token-file <file>', 'file with the token to present').env('TRIBUTARY_TOKEN_FILE'),
    )
    .addOption(
      new Option('--ca <file>', 'certificate authorities (PEM) to trust for wss: and https:').env(
        'TRIBUTARY_CA',
      ),
    )
}

/** Connects, runs `use`, and closes however that ends. */
export async function withClient(
  cli: Cli,
  flags: ClientFlags,
  use: (client: TributaryClient) => Promise<void>,
): Promise<void> {
  const env = await cli.env()
  const { tokenFile, ca } = flags
  const token =
    tokenFile === undefined
      ? undefined
      : parseTokens(tokenFile, await readText('--token-file', tokenFile, env.disk))[0]
  const caPem = ca === undefined ? undefined : certificatesFrom(ca, await readText('--ca', ca, env.disk))
  const { connect } = await import('../client.ts')
  const client = connect({
    hub: flags.hub,
    env,
    ...(token === undefined ? {} : { token }),
    ...(caPem === undefined ? {} : { caPem }),
  })
  try {
    await use(client)
  } finally {
    await client.close()
  }
}

async function readText(
  flag: string,
  path: string,
  disk: { readFile(path: string): Promise<Uint8Array> },
): Promise<string> {
  const bytes = await disk.readFile(path).catch((cause: unknown) => {
    const why = systemErrorCode(cause) ?? messageOf(cause)
    throw new TributaryError('invalid_argument', `${flag}: ${path} can't be read (${why})`, { cause })
  })
  if (bytes.length > MAX_CONFIG_FILE_BYTES) {
    throw new TributaryError('invalid_argument', `${flag}: ${path} is too large to be one`)
  }
  return new TextDecoder().decode(bytes)
}

function hubUrls(text: string): string {
  const urls = parseHubUrls(text)
  if (urls === null) {
    throw new InvalidArgumentError(
      'Expected a URL such as ws://127.0.0.1:7600, or several separated by commas.',
    )
  }
  return urls.join(',')
}

/** Parsers for commander's options; each throws what commander shows with the flag. */
export function wholeNumber(text: string): number {
  const value = Number(text)
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value))
    throw new InvalidArgumentError('Expected a whole number.')
  return value
}

export function positiveNumber(text: string): number {
  const value = wholeNumber(text)
  if (value === 0) throw new InvalidArgumentError('Expected a whole number above 0.')
  return value
}

export function size(text: string): number {
  const bytes = parseSize(text)
  if (bytes === null || bytes <= 0) throw new InvalidArgumentError('Expected a size such as 64KiB or 1GiB.')
  return bytes
}

/** `off` stays text: commander takes null for no value at all. */
export function sizeOrOff(text: string): number | 'off' {
  return text === 'off' ? 'off' : size(text)
}

export function durationOrOff(text: string): number | 'off' {
  if (text === 'off') return 'off'
  const ms = parseDuration(text)
  if (ms === null || ms <= 0) throw new InvalidArgumentError('Expected a duration such as 24h or 7d, or off.')
  return ms
}

/** Help text with one example a line. */
export function examples(...lines: string[]): string {
  return `\nExamples:\n${lines.map(line => `  $ ${line}`).join('\n')}`
}
