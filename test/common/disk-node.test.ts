import { mkdtemp, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { expect, test } from 'vitest'
import { nodeDisk } from '../../common/disk-node.ts'
import { nodeEnv } from '../../common/env-node.ts'
import { openDataDir } from '../../common/log/data-dir.ts'

test('folders are made with their parents, by whatever path, and again for nothing', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tributary-disk-'))
  const disk = nodeDisk()
  try {
    for (const path of [join(folder, 'a/b/c'), `${relative('.', folder)}/a/../d/e/`, join(folder, 'a/b')]) {
      await disk.mkdir(path)
      expect((await stat(path)).isDirectory()).toBe(true)
    }
  } finally {
    await rm(folder, { recursive: true })
  }
})

test('folders that can not be made are refused, wherever what is in the way stands', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tributary-disk-'))
  const disk = nodeDisk()
  try {
    await writeFile(join(folder, 'file'), '')
    await symlink(join(folder, 'nowhere'), join(folder, 'link'))
    for (const [path, code] of [
      ['file', 'ENOTDIR'],
      ['file/a/b', 'ENOTDIR'],
      ['link', 'EEXIST'],
    ] as const) {
      await expect(disk.mkdir(join(folder, path))).rejects.toMatchObject({ code })
    }
    const twice = Array.from({ length: 5 }, () => disk.mkdir(join(folder, 'a/b/c/d')))
    await Promise.all(twice)
    expect((await stat(join(folder, 'a/b/c/d'))).isDirectory()).toBe(true)
  } finally {
    await rm(folder, { recursive: true })
  }
})

test.skipIf(process.platform !== 'linux')(
  'a data directory where no files can be is refused and told',
  async () => {
    const options = { commitMs: 0, journalBytes: 65_536, reserveBytes: 0, tailCacheBytes: 0 }
    for (const path of ['/proc/tributary', '/proc/tributary/below', '/proc']) {
      await expect(openDataDir(path, options, nodeEnv())).rejects.toMatchObject({
        code: 'invalid_argument',
        message: expect.stringMatching(
          /^the data directory \/proc.* \(ENOENT.*choose a place for it with --data$/,
        ),
      })
    }
  },
)

test('a file opened to be updated must be there, one opened to be written is made', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tributary-disk-'))
  const disk = nodeDisk()
  try {
    const path = join(folder, 'f')
    await expect(disk.open(path, 'update')).rejects.toMatchObject({ code: 'ENOENT' })
    await expect(disk.open(path, 'read')).rejects.toMatchObject({ code: 'ENOENT' })
    await (await disk.open(path, 'write')).close()
    const file = await disk.open(path, 'update')
    await file.writev([new Uint8Array([1, 2]), new Uint8Array([3])], 4)
    expect(await file.sizeBytes()).toBe(7)
    await file.close()
    expect([...(await disk.readFile(path))]).toEqual([0, 0, 0, 0, 1, 2, 3])
  } finally {
    await rm(folder, { recursive: true })
  }
})

test('a file opened to be durable is made, and takes more buffers at once than a system call does', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tributary-disk-'))
  try {
    const disk = nodeDisk()
    const path = join(folder, 'f')
    const file = await disk.open(path, 'durable')
    const buffers = Array.from({ length: 2_500 }, (_, at) => new Uint8Array(1 + (at % 3)).fill(at))
    await file.writev(buffers, 3)
    await file.writev([new Uint8Array([9])], 1)
    await file.close()
    expect(Buffer.from(await disk.readFile(path))).toEqual(
      Buffer.concat([Buffer.from([0, 9, 0]), ...buffers]),
    )
  } finally {
    await rm(folder, { recursive: true })
  }
})
