package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/skiff-k8s/skiff/cluster/node"
)

// running lists the nodes of a data directory whose container runtime is there.
func (c Config) running() ([]node.Config, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(c.DataDir, "nodes"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	c.Nodes = len(entries)
	var nodes []node.Config
	for _, m := range c.members(nil) {
		if _, err := os.Stat(strings.TrimPrefix(m.Socket(), "unix://")); err == nil {
			nodes = append(nodes, m.Config)
		}
	}
	if len(nodes) == 0 {
		return nil, fmt.Errorf("no node is running with the data directory %s", c.DataDir)
	}
	return nodes, nil
}

// ImportImages loads docker or OCI archives into every running node that has
// not got them yet. tell is told what is being read, and how many bytes of how many.
func ImportImages(ctx context.Context, c Config, files []string, out io.Writer, tell func(what string, done, total int64)) error {
	nodes, err := c.running()
	if err != nil {
		return err
	}
	for _, n := range nodes {
		for _, file := range files {
			what := fmt.Sprintf("%s: importing %s", n.Name, file)
			loaded, err := node.ImportImage(ctx, n, file, func(done, total int64) { tell(what, done, total) })
			if err != nil {
				return fmt.Errorf("import %s into %s: %w", file, n.Name, err)
			}
			if loaded {
				fmt.Fprintf(out, "%s: imported %s\n", n.Name, file)
			} else {
				fmt.Fprintf(out, "%s: has %s\n", n.Name, file)
			}
		}
	}
	return nil
}

// ListImages writes the images of every running node, a line each.
func ListImages(ctx context.Context, c Config, out io.Writer) error {
	nodes, err := c.running()
	if err != nil {
		return err
	}
	for _, n := range nodes {
		names, err := node.Images(ctx, n)
		if err != nil {
			return err
		}
		for _, name := range names {
			fmt.Fprintf(out, "%s\t%s\n", n.Name, name)
		}
	}
	return nil
}

// RemoveImages removes images by name from every running node.
func RemoveImages(ctx context.Context, c Config, names []string) error {
	nodes, err := c.running()
	if err != nil {
		return err
	}
	for _, n := range nodes {
		for _, name := range names {
			if err := node.RemoveImage(ctx, n, name); err != nil {
				return err
			}
		}
	}
	return nil
}
