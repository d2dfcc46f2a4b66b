package images

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Collector removes unused images, longest unused first, once the image file system is fuller than
// High, until it is below Low. Images that are pinned, used, or younger than MinAge stay.
type Collector struct {
	Runtime interface {
		ListImages(ctx context.Context) ([]*cri.Image, error)
		RemoveImage(ctx context.Context, id string) error
	}
	// InUse are the image ids and references of all containers on the node.
	InUse func(ctx context.Context) (map[string]bool, error)
	// Disk is the capacity and the free space of the image file system in bytes.
	Disk func(ctx context.Context) (capacity, available uint64, err error)
	// Listed is told all images that were there at a time, if it is set.
	Listed func(images []*cri.Image, at time.Time)
	// Failed reports that not enough could be freed.
	Failed func(reason, message string)

	High, Low int           // percent; 85 and 80 if zero
	MinAge    time.Duration // 2 minutes if zero
	Every     time.Duration // 5 minutes if zero

	seen map[string]*usage
}

type usage struct{ first, last time.Time }

// Run collects until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	every := cmp.Or(c.Every, 5*time.Minute)
	for {
		if err := c.Collect(ctx, time.Now()); err != nil && ctx.Err() == nil {
			slog.Warn("image collection", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
	}
}

// Collect does one round.
func (c *Collector) Collect(ctx context.Context, now time.Time) error {
	candidates, err := c.unused(ctx, now)
	if err != nil {
		return err
	}
	capacity, available, err := c.Disk(ctx)
	if err != nil {
		return fmt.Errorf("measure the image file system: %w", err)
	}
	if capacity == 0 {
		c.Failed("InvalidDiskCapacity", "invalid capacity 0 on image filesystem")
		return nil
	}
	used := int(100 - available*100/capacity)
	if used < cmp.Or(c.High, 85) {
		return nil
	}
	excess := capacity*uint64(100-cmp.Or(c.Low, 80))/100 - available
	freed := c.remove(ctx, candidates, excess, now)
	if freed < excess {
		c.Failed("FreeDiskSpaceFailed", fmt.Sprintf("Failed to garbage collect required amount of images. Attempted to free %d bytes, but only found %d bytes eligible to free.", excess, freed))
	}
	return nil
}

// RemoveAll removes every unused image, for a node that runs out of disk.
func (c *Collector) RemoveAll(ctx context.Context, now time.Time) error {
	candidates, err := c.unused(ctx, now)
	if err != nil {
		return err
	}
	c.remove(ctx, candidates, 1<<63, now)
	return nil
}

// unused are the images that may go, longest unused first.
func (c *Collector) unused(ctx context.Context, now time.Time) ([]*cri.Image, error) {
	listed := time.Now()
	images, err := c.Runtime.ListImages(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	if c.Listed != nil {
		c.Listed(images, listed)
	}
	inUse, err := c.InUse(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images in use: %w", err)
	}
	seen := map[string]*usage{}
	var free []*cri.Image
	for _, image := range images {
		u := c.seen[image.Id]
		if u == nil {
			u = &usage{first: now}
		}
		seen[image.Id] = u
		if image.Pinned || used(image, inUse) {
			u.last = now
			continue
		}
		free = append(free, image)
	}
	c.seen = seen
	slices.SortFunc(free, func(a, b *cri.Image) int {
		return cmp.Or(seen[a.Id].last.Compare(seen[b.Id].last), seen[a.Id].first.Compare(seen[b.Id].first))
	})
	return free, nil
}

func used(image *cri.Image, inUse map[string]bool) bool {
	if inUse[image.Id] {
		return true
	}
	for _, names := range [][]string{image.RepoTags, image.RepoDigests} {
		if slices.ContainsFunc(names, func(n string) bool { return inUse[n] }) {
			return true
		}
	}
	return false
}

// remove deletes images until enough bytes are freed and returns how many were.
func (c *Collector) remove(ctx context.Context, images []*cri.Image, enough uint64, now time.Time) uint64 {
	var freed uint64
	for _, image := range images {
		if freed >= enough {
			break
		}
		if now.Sub(c.seen[image.Id].first) < cmp.Or(c.MinAge, 2*time.Minute) {
			continue
		}
		if err := c.Runtime.RemoveImage(ctx, image.Id); err != nil {
			slog.Warn("image not removed", "image", image.Id, "error", err)
			continue
		}
		slog.Info("removed unused image", "image", image.Id, "names", image.RepoTags, "bytes", image.Size)
		freed += image.Size
	}
	return freed
}
