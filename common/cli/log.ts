import type { Command } from 'commander'
import { TributaryError } from '../errors.ts'
import type { ComparisonReport } from '../log/compare.ts'
import type { Finding, VerifyReport } from '../log/inspect.ts'
import type { Cli } from './cli.ts'
import { examples } from './options.ts'
import { createOutput, printJson, printTable } from './output.ts'

/** Adds `tributary log verify|dump|repair`. */
export function addLogCommands(program: Command, cli: Cli): void {
  const log = program
    .command('log')
    .description('Look into a data directory that no process holds')
    .addHelpText(
      'after',
      examples(
        'tributary log verify ./data/edge',
        'tributary log verify ./data/node-1 ./data/node-2 ./data/node-3',
        'tributary log dump ./data/hub --records',
      ),
    )
  addVerify(log, cli)
  addDump(log, cli)
  addRepair(log, cli)
}

function addVerify(log: Command, cli: Cli): void {
  log
    .command('verify')
    .argument('<dirs...>')
    .description(
      'Check every batch, that offsets are contiguous and that the logs end where they were durable; with several directories also that the replicas of each partition are equal',
    )
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `${examples(
        'tributary log verify ./data/edge',
        'tributary log verify ./data/hub --json',
        'tributary log verify ./data/node-1 ./data/node-2 ./data/node-3',
      )}

Replicas are compared batch by batch over what all of them have; offsets are skipped where one is
damaged, or was killed and has them in its journal alone: the next start writes them.
Changes nothing. Exits 1 where acked records are damaged or replicas differ.`,
    )
    .action(async (dirs: string[], flags: { json?: true }) => {
      const [dir, ...others] = dirs
      if (dir === undefined) return
      if (others.length > 0) return compare(cli, dirs, flags)
      const [{ verifyDirectory }, { disk }] = await Promise.all([import('../log/inspect.ts'), cli.env()])
      const report = await verifyDirectory(disk, dir)
      if (flags.json) printJson(cli.stdout, report)
      else await printReport(cli, report)
      refuseDamage(dir, report)
    })
}

function refuseDamage(dir: string, report: VerifyReport): void {
  const damaged = report.findings.filter(finding => finding.kind === 'damage').length
  if (damaged === 0) return
  throw new TributaryError(
    'corrupt_log',
    `${dir} has ${damaged} damaged ${damaged === 1 ? 'place' : 'places'}: keep a copy, then run tributary log repair`,
  )
}

async function compare(cli: Cli, dirs: readonly string[], flags: { json?: true }): Promise<void> {
  const [{ compareDirectories }, { disk }] = await Promise.all([import('../log/compare.ts'), cli.env()])
  const report = await compareDirectories(disk, dirs)
  if (flags.json) printJson(cli.stdout, report)
  else await printComparison(cli, report)
  for (const { directory, ...verified } of report.directories) refuseDamage(directory, verified)
  const different = report.comparisons.filter(compared => compared.difference !== null).length
  if (different > 0) {
    throw new TributaryError(
      'corrupt_log',
      `${different} of ${report.comparisons.length} partitions differ between their replicas: keep copies of the directories`,
    )
  }
}

async function printComparison(cli: Cli, report: ComparisonReport): Promise<void> {
  for (const { directory, findings } of report.directories) {
    cli.stdout.write(
      `${directory}: ${findings.length === 0 ? 'all is well' : `${findings.length} findings`}\n`,
    )
    writeFindings(cli, findings)
  }
  const rows = report.comparisons.map(
    ({ name, replicas, fromOffset, toOffset, batches, skipped, difference }) => [
      name,
      replicas.map(({ startOffset, endOffset }) => `${startOffset}..${endOffset}`).join(' '),
      `${fromOffset}..${Math.max(fromOffset, toOffset)}`,
      batches,
      skipped,
      difference === null ? 'equal' : `differ at ${difference.offset}`,
    ],
  )
  await printTable(cli.stdout, ['log', 'replicas', 'compared', 'batches', 'skipped', 'result'], rows)
  for (const { name, replicas, difference } of report.comparisons) {
    if (difference === null) continue
    for (const [at, { directory }] of replicas.entries()) {
      const batch = difference.batches[at]
      const text =
        batch === null || batch === undefined
          ? 'no batch'
          : `${batch.baseOffset}..${batch.lastOffset} epoch ${batch.leaderEpoch} crc ${batch.crc.toString(16)} bytes ${batch.sizeBytes}`
      cli.stdout.write(`${name} at ${difference.offset}: ${directory} has ${text}\n`)
    }
  }
}

function writeFindings(cli: Cli, findings: readonly Finding[]): void {
  for (const { kind, file, bytePosition, text } of findings)
    cli.stdout.write(`${kind}: ${file} at byte ${bytePosition}: ${text}\n`)
}

async function printReport(cli: Cli, report: VerifyReport): Promise<void> {
  const rows = report.logs.map(log => [
    log.name,
    log.startOffset,
    log.endOffset,
    log.records,
    log.batches,
    log.segments,
    log.sizeBytes,
  ])
  await printTable(cli.stdout, ['log', 'start', 'end', 'records', 'batches', 'segments', 'bytes'], rows)
  writeFindings(cli, report.findings)
  const stop = report.cleanShutdown ? 'stopped in order' : 'not stopped in order: the next start recovers it'
  cli.stdout.write(
    `${stop}; ${report.findings.length === 0 ? 'all is well' : `${report.findings.length} findings`}\n`,
  )
}

function addDump(log: Command, cli: Cli): void {
  log
    .command('dump')
    .argument('<dir>')
    .description('Print a line for every batch of every log')
    .option('--log <name>', 'only this log; verify lists their names')
    .option('--records', 'print every record too')
    .addHelpText(
      'after',
      examples('tributary log dump ./data/edge', 'tributary log dump ./data/hub --records | grep plant/7'),
    )
    .action(async (dir: string, flags: { log?: string; records?: true }) => {
      const [{ dumpDirectory }, { disk, codec, clock }] = await Promise.all([
        import('../log/inspect.ts'),
        cli.env(),
      ])
      const output = createOutput(cli.stdout, clock)
      const options = {
        records: flags.records === true,
        codec,
        ...(flags.log === undefined ? {} : { log: flags.log }),
      }
      await dumpDirectory(disk, dir, options, line => output.write(`${line}\n`))
      await output.flush()
    })
}

function addRepair(log: Command, cli: Cli): void {
  log
    .command('repair')
    .argument('<dir>')
    .description('Recover as a start would: cut torn tails, set damage aside, build the indexes anew')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `${examples('cp -a ./data/edge ./backup', 'tributary log repair ./data/edge')}

What is cut or damaged is kept aside in the directory.`,
    )
    .action(async (dir: string, flags: { json?: true }) => {
      const [{ repairDirectory }, env] = await Promise.all([import('../log/repair-directory.ts'), cli.env()])
      const report = await repairDirectory(env, dir)
      if (flags.json) return printJson(cli.stdout, report)
      for (const { log, fromOffset, cutBytes, keptAs } of report.tornTails) {
        cli.stdout.write(
          `${log}: cut ${cutBytes} torn bytes from offset ${fromOffset} on, kept as ${keptAs}\n`,
        )
      }
      for (const { log, fromOffset, toOffset, reason } of report.damage) {
        cli.stdout.write(`${log}: offsets ${fromOffset} to ${toOffset} are lost: ${reason}\n`)
      }
      cli.stdout.write(report.damage.length === 0 ? 'no acked record is lost\n' : 'done\n')
    })
}
