package history

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	segmentSuffix = ".seg"
	tailName      = "tail"
	lockName      = "lock"
	numberDigits  = 20

	fileMode = 0o640 // labels may say more than everybody is to know
	dirMode  = 0o750
)

func segmentPath(dir string, first uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%0*d%s", numberDigits, first, segmentSuffix))
}

// segment is a file of the ledger, as far as it is kept in memory.
type segment struct {
	span
	origin
	path   string
	size   int64
	sealed bool
	broken string // why nothing of it can be read; empty: something can
}

// errEmpty is a segment whose writer was killed before there was anything in it, if it is the newest; any other has lost what it had.
var errEmpty = errors.New("there is nothing in it")

// listSegments finds the segments of a directory, oldest first. Other files are nobody's business.
func listSegments(dir string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(path string) bool { return segmentNumber(path) == 0 })
	slices.Sort(names)
	return names, nil
}

// listWritten is listSegments beside a writer. A listing may have a segment that was made meanwhile and not the one made before; a second
// has all up to the newest that the first has seen.
func listWritten(dir string) ([]string, error) {
	seen, err := listSegments(dir)
	if err != nil || len(seen) == 0 {
		return nil, err
	}
	paths, err := listSegments(dir)
	return slices.DeleteFunc(paths, func(path string) bool { return path > seen[len(seen)-1] }), err
}

// segmentNumber is the number that a segment's name has; 0: it is no segment's name.
func segmentNumber(path string) uint64 {
	digits := strings.TrimSuffix(filepath.Base(path), segmentSuffix)
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || len(digits) != numberDigits {
		return 0
	}
	return n
}

// readSegment reads what a segment says of itself. Of one that is not sealed, what is in it is found by going through its blocks.
func readSegment(path string) (s segment, err error) {
	f, err := os.Open(path)
	if err != nil {
		return segment{}, err
	}
	defer f.Close()
	return readSegmentFile(f, path)
}

func readSegmentFile(f *os.File, path string) (segment, error) {
	info, err := f.Stat()
	if err != nil {
		return segment{}, err
	}
	s := segment{path: path, size: info.Size()}
	if s.size < fileHeaderSize {
		return s, fmt.Errorf("segment %s: %w", path, errEmpty)
	}
	head := make([]byte, fileHeaderSize)
	if _, err := f.ReadAt(head, 0); err != nil {
		return s, fmt.Errorf("segment %s: %w", path, err)
	}
	if s.origin, err = decodeOrigin(head, segmentMagic); err != nil {
		return s, fmt.Errorf("segment %s: %w", path, err)
	}
	if t, err := readTrailer(f, s.size); err == nil {
		s.span, s.sealed = t.span, true
	}
	return s, nil
}

func readTrailer(f io.ReaderAt, size int64) (trailer, error) {
	if size < fileHeaderSize+trailerSize {
		return trailer{}, errors.New("no footer ends here")
	}
	b := make([]byte, trailerSize)
	if _, err := f.ReadAt(b, size-trailerSize); err != nil {
		return trailer{}, err
	}
	return decodeTrailer(b, size)
}

// readFooter reads where the blocks of a sealed segment are.
func readFooter(f io.ReaderAt, size int64) ([]entry, error) {
	t, err := readTrailer(f, size)
	if err != nil {
		return nil, err
	}
	b := make([]byte, t.length)
	if _, err := f.ReadAt(b, t.footer); err != nil {
		return nil, fmt.Errorf("footer: %w", err)
	}
	if checksum(b) != t.sum {
		return nil, errors.New("footer: wrong checksum")
	}
	return decodeFooter(b, t)
}

// findBlocks goes through the blocks of a segment that has no footer, or none that can be read. It ends where no block begins, or one
// that is not all there: at end. A block that is there and damaged is passed over by who reads it.
func findBlocks(f io.ReaderAt, size int64) (entries []entry, end int64, err error) {
	end = fileHeaderSize
	head := make([]byte, blockHeaderSize)
	for end+blockHeaderSize <= size {
		if _, err := f.ReadAt(head, end); err != nil {
			return entries, end, fmt.Errorf("block at %d: %w", end, err)
		}
		h, err := decodeBlockHeader(head)
		if err != nil || end+blockHeaderSize+int64(h.length) > size {
			return entries, end, nil
		}
		if len(entries) > 0 && h.first < entries[len(entries)-1].end() {
			return entries, end, nil // left there by somebody else
		}
		entries = append(entries, entry{span: h.span, offset: end, length: blockHeaderSize + h.length})
		end += blockHeaderSize + int64(h.length)
	}
	return entries, end, nil
}

// readBlockAt reads a block, of which nothing but its subjects is unpacked yet.
func readBlockAt(f io.ReaderAt, e entry) (*block, error) {
	raw := make([]byte, e.length)
	if _, err := f.ReadAt(raw, e.offset); err != nil {
		return nil, err
	}
	h, err := decodeBlockHeader(raw)
	switch {
	case err != nil:
		return nil, err
	case h.span != e.span || h.length+blockHeaderSize != e.length:
		return nil, fmt.Errorf("not the block that the footer has: %w", errFormat)
	case checksum(raw[blockHeaderSize:]) != h.sum:
		return nil, errors.New("wrong checksum")
	}
	return readBlock(h.span, raw[blockHeaderSize:])
}

// segmentWriter adds blocks to the newest segment. Only what was written whole counts: a write that fails is written over by the next.
type segmentWriter struct {
	segment
	file    *os.File
	entries []entry
	dirty   bool // since the last sync
	named   bool // the directory has been synced with its name in it
}

func createSegment(dir string, first uint64, o origin) (*segmentWriter, error) {
	path := segmentPath(dir, first)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return nil, err
	}
	if _, err := f.WriteAt(o.encode(segmentMagic), 0); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return &segmentWriter{segment: segment{span: span{first: first}, origin: o, path: path, size: fileHeaderSize}, file: f, dirty: true}, nil
}

// resumeSegment goes on with a segment of an earlier run.
func resumeSegment(path string) (_ *segmentWriter, cut int64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("segment %s: %w", path, err), f.Close())
		}
	}()
	s, err := readSegmentFile(f, path)
	if err != nil {
		return nil, 0, err
	}
	w := &segmentWriter{segment: s, file: f}
	end := int64(fileHeaderSize)
	if w.entries, err = readFooter(f, s.size); err == nil {
		for _, e := range w.entries {
			end = max(end, e.offset+int64(e.length))
		}
	} else {
		if w.entries, end, err = findBlocks(f, s.size); err != nil {
			return nil, 0, err
		}
		cut = s.size - end
		w.refilter()
	}
	if err := f.Truncate(end); err != nil {
		return nil, 0, err
	}
	w.span, w.size, w.sealed, w.dirty = span{first: segmentNumber(path)}, end, false, true
	for i, e := range w.entries {
		w.span = w.add(e.span)
		w.entries[i].filter = slices.Clone(e.filter) // not a part of the whole footer
	}
	return w, cut, nil
}

// refilter makes the filters that the footer would have had. A block that cannot be read keeps none, and is tried every time.
func (w *segmentWriter) refilter() {
	for i, e := range w.entries {
		if b, err := readBlockAt(w.file, e); err == nil {
			w.entries[i].filter = newFilter(b.known())
		}
	}
}

// append writes a block at the end.
func (w *segmentWriter) append(block []byte, e entry) error {
	if _, err := w.file.WriteAt(block, w.size); err != nil {
		return fmt.Errorf("segment %s: %w", w.path, errors.Join(err, w.file.Truncate(w.size)))
	}
	e.offset = w.size
	w.size += int64(len(block))
	w.span = w.add(e.span)
	w.entries = append(w.entries, e)
	w.dirty = true
	return nil
}

// seal writes the footer. The segment can be gone on with by resumeSegment.
func (w *segmentWriter) seal() error {
	if w.count == 0 {
		return nil
	}
	footer := encodeFooter(w.entries)
	t := trailer{span: w.span, footer: w.size, length: len(footer), sum: checksum(footer)}
	whole := append(footer, t.encode()...)
	if _, err := w.file.WriteAt(whole, w.size); err != nil {
		return fmt.Errorf("segment %s: %w", w.path, errors.Join(err, w.file.Truncate(w.size)))
	}
	w.size += int64(len(whole))
	w.sealed, w.dirty = true, true
	return nil
}

func (w *segmentWriter) sync() error {
	if !w.dirty {
		return nil
	}
	if err := syncFile(w.file, &w.named); err != nil {
		return fmt.Errorf("segment %s: %w", w.path, err)
	}
	w.dirty = false
	return nil
}

// syncFile syncs a file, and unless it is named already, its directory.
func syncFile(f *os.File, named *bool) error {
	if err := f.Sync(); err != nil || *named {
		return err
	}
	dir, err := os.Open(filepath.Dir(f.Name()))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return err
	}
	*named = true
	return nil
}
