package snapshot

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// Restored is what Restore has done.
type Restored struct {
	Entries int
	// Revision is the newest now. Everything before it counts as compacted.
	Revision int64
	LeftOut  int64     // how many revisions are between that of the backup and Revision
	Time     time.Time // when the backup was made
}

// DefaultBump stands for as many revisions as are surely more than were made after the
// backup: those of more than a week at a thousand a second. Where making them takes time
// (backend.Stepper) it is a hundred for each second since the backup, and a million at
// least.
const DefaultBump = -1

const (
	farBump        = 1_000_000_000
	leastSteps     = 1_000_000
	stepsPerSecond = 100
)

func bumpOf(to backend.Backend, age time.Duration) int64 {
	if _, steps := to.(backend.Stepper); steps {
		return max(leastSteps, stepsPerSecond*int64(age/time.Second))
	}
	return farBump
}

// Restore fills to with a backup. Nothing is written before all of the backup
// was read and found sound. Values keep their revisions; the newest revision is bump
// above that of the backup: more than were made after it, so that none means two
// things, and whoever watches starts over; or DefaultBump. If Restore fails, to is empty or says that
// it is partial. backend.ErrNotEmpty; the errors of Reader.
func Restore(ctx context.Context, r io.Reader, to backend.Backend, bump int64, tell Progress) (Restored, error) {
	if err := empty(ctx, to); err != nil {
		return Restored{}, err
	}
	reader, err := NewReader(r)
	if err != nil {
		return Restored{}, err
	}
	defer reader.Close()
	if bump == DefaultBump {
		bump = bumpOf(to, time.Since(reader.Time))
	}
	if bump < 0 || reader.Revision > math.MaxInt64-bump {
		return Restored{}, fmt.Errorf("revision %d cannot go on by %d", reader.Revision, bump)
	}
	var entries []backend.Entry
	for e, err := range reader.Entries() {
		if err != nil {
			return Restored{}, err
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, byRevision)
	for i := 1; i < len(entries); i++ {
		if one, other := entries[i-1], entries[i]; one.Revision == other.Revision {
			return Restored{}, fmt.Errorf("%w: %s and %s have the same revision", ErrChanged, one.Key, other.Key)
		}
	}
	newest := reader.Revision + bump
	if err := load(ctx, to, entries, newest, newest, tell); err != nil {
		return Restored{}, fmt.Errorf("write: %w", err)
	}
	return Restored{Entries: len(entries), Revision: newest, LeftOut: bump, Time: reader.Time}, nil
}
