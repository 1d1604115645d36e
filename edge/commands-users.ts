import { createInterface } from 'node:readline/promises'
import type { Readable } from 'node:stream'
import { Writable } from 'node:stream'
import type { Command } from 'commander'
import type { Cli } from '../common/cli/cli.ts'
import { examples } from '../common/cli/options.ts'
import { TributaryError } from '../common/errors.ts'
import { MAX_CONFIG_FILE_BYTES } from '../common/limits.ts'

/** Adds `tributary mqtt-users add`. */
export function addUsersCommands(program: Command, cli: Cli): void {
  const users = program
    .command('mqtt-users')
    .description('Make the file of edge --mqtt-users')
    .addHelpText('after', examples('tributary mqtt-users add users sensor1'))
  users
    .command('add')
    .argument('<file>')
    .argument('<user>')
    .description('Add a user, or change the password; it is asked for, or read from the standard input')
    .addHelpText(
      'after',
      examples(
        'tributary mqtt-users add users sensor1',
        'openssl rand -hex 16 | tee password | tributary mqtt-users add users sensor1',
      ),
    )
    .action(async (file: string, user: string) => {
      if (user === '' || user.startsWith('#') || /[:\r\n]/.test(user)) {
        throw new TributaryError(
          'invalid_argument',
          `${JSON.stringify(user)} can't be a user: no colon, no line end, no # at the start`,
        )
      }
      const password = await readPassword(cli)
      const { hashPassword } = await import('./mqtt/users.ts')
      await replaceUser(cli, file, user, await hashPassword(password))
      cli.stderr.write(`${user} may log in where ${file} is in force; a running edge needs a restart\n`)
    })
}

async function replaceUser(cli: Cli, file: string, user: string, hash: string): Promise<void> {
  const { disk } = await cli.env()
  const before = (await disk.exists(file)) ? new TextDecoder().decode(await disk.readFile(file)) : ''
  const others = before.split('\n').filter(line => line !== '' && !line.startsWith(`${user}:`))
  const text = `${[...others, `${user}:${hash}`].join('\n')}\n`
  if (text.length > MAX_CONFIG_FILE_BYTES) {
    throw new TributaryError(
      'limit_exceeded',
      `${file} would be larger than the ${MAX_CONFIG_FILE_BYTES} bytes allowed`,
    )
  }
  await disk.replaceFile(file, Buffer.from(text))
}

/** The first line of the input; from a terminal without showing it. */
async function readPassword(cli: Cli): Promise<string> {
  const terminal = isTerminal(cli.stdin)
  if (terminal) cli.stderr.write('Password: ')
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() })
  const lines = createInterface({ input: cli.stdin, output: silent, terminal })
  let password = ''
  for await (const line of lines) {
    password = line
    break
  }
  lines.close()
  if (terminal) cli.stderr.write('\n')
  if (password === '')
    throw new TributaryError('invalid_argument', 'the password is empty: give it as the first line')
  return password
}

function isTerminal(stream: Readable): boolean {
  return 'isTTY' in stream && stream.isTTY === true
}
