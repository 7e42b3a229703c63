package bgp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/hostfabric/hostfabric/bgp/internal/blame"
	"github.com/hostfabric/hostfabric/bgp/internal/meta"
)

// maxReport bounds what is read of a crash report: what names the peer comes first.
const maxReport = 256 << 10

// takeCrashes reads the reports that speakers which crashed left beside their socket, the oldest first, and puts the last
// one aside for who wants to look at it. alive is the speaker that runs now.
func takeCrashes(socket string, alive int) ([]meta.Crash, error) {
	dir, base := filepath.Split(socket)
	root, err := os.OpenRoot(filepath.Clean(dir)) // the directory is the speaker's: it must not lead us out of it
	if err != nil {
		return nil, fmt.Errorf("look for crash reports: %w", err)
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("look for crash reports: %w", err)
	}
	var found []fs.FileInfo
	for _, e := range entries {
		pid, ok := meta.CrashPID(base, e.Name())
		if st, err := e.Info(); err == nil && ok && pid != alive && st.Mode().IsRegular() && st.Size() > 0 {
			found = append(found, st)
		}
	}
	slices.SortFunc(found, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	var out []meta.Crash
	for _, st := range found {
		report, err := readReport(root, st.Name())
		if err == nil {
			err = root.Rename(st.Name(), meta.LastCrash(base))
		}
		if err != nil {
			return out, fmt.Errorf("crash report: %w", err)
		}
		out = append(out, meta.ParseCrash(report))
	}
	return out, nil
}

func readReport(root *os.Root, name string) (string, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // what is no file any more must not block us
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxReport))
	return string(b), err
}

// noteCrashes finds out who ended the speakers that came before this one. given are the peers that the last one had.
func (s *Speaker) noteCrashes(alive int, given []netip.Addr) {
	crashes, err := takeCrashes(s.opts.Socket, alive)
	if err != nil {
		s.log.Error("the peer that crashed the speaker, if any, may go unnoticed", "error", err)
	}
	for _, c := range crashes {
		s.blameFor(c, given)
	}
}

// loadBlame reads what an earlier agent of this boot knew. Without that the peers start with a clean record.
func (s *Speaker) loadBlame() {
	if s.opts.BlameFile == "" {
		return
	}
	b, err := os.ReadFile(s.opts.BlameFile)
	if err == nil {
		err = json.Unmarshal(b, &s.blame)
	}
	maps.DeleteFunc(s.blame.Peers, func(_ netip.Addr, p *blame.Peer) bool { return p == nil })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.blame = blame.Record{}
		s.log.Warn("record of the peers' misdeeds not read, starting anew", "error", err)
	}
}

func (s *Speaker) saveBlame() error {
	if s.opts.BlameFile == "" {
		return nil
	}
	s.mu.Lock()
	b, err := json.Marshal(s.blame)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	tmp := s.opts.BlameFile + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, s.opts.BlameFile)
}
