package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
)

// standIns are the programs that envtest starts, by the names under which this one is started in their place.
var standIns = map[string]func() *cobra.Command{
	"kube-apiserver": kubeAPIServerCommand,
	"etcd":           etcdCommand,
	"kubectl":        kubectlCommand,
}

// called is the command of a program that was started under a name.
func called(name string) *cobra.Command {
	if standIn, ok := standIns[filepath.Base(name)]; ok {
		return standIn()
	}
	return command()
}

func envtestAssetsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "envtest-assets DIR",
		Short: "Write a kube-apiserver, an etcd and a kubectl for suites that use envtest: KUBEBUILDER_ASSETS=DIR",
		Long: `Write a kube-apiserver, an etcd and a kubectl that take the flags which envtest passes, and are this program.
A suite runs on them with KUBEBUILDER_ASSETS=DIR. kubectl is the one that PATH has besides.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return writeAssets(args[0]) },
	}
}

// writeAssets puts this program into a folder, and links with the names of those it stands in for. The folder can be moved.
func writeAssets(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	const program = "skiff"
	if err := duplicate(self, filepath.Join(dir, program)); err != nil {
		return err
	}
	for name := range standIns {
		link := filepath.Join(dir, name)
		if err := replaceable(link); err != nil {
			return err
		}
		if err := os.Symlink(program, link); err != nil {
			return err
		}
	}
	return nil
}

// replaceable removes what was written here before. Programs that somebody else has put there stay.
func replaceable(link string) error {
	info, err := os.Lstat(link)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSymlink:
		return fmt.Errorf("%s is a program already: choose another folder, or remove it", link)
	}
	return os.Remove(link)
}

// duplicate copies a program. The copy gets its name when it is whole: one that runs under the name goes on.
func duplicate(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.CreateTemp(filepath.Dir(to), ".skiff-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(target.Name()))
		}
	}()
	_, err = io.Copy(target, source)
	if err := errors.Join(err, target.Chmod(0o755), target.Close()); err != nil {
		return err
	}
	return os.Rename(target.Name(), to)
}

// kubectlCommand runs the kubectl of PATH: Skiff has none of its own.
func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use: "kubectl", DisableFlagParsing: true, SilenceUsage: true, SilenceErrors: true,
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := otherProgram("kubectl")
			if err != nil {
				return err
			}
			return become(path, slices.Concat([]string{path}, args))
		},
	}
}

// otherProgram is the first of a name in PATH that is not this program.
func otherProgram(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	this, err := os.Stat(self)
	if err != nil {
		return "", err
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 && !os.SameFile(info, this) {
			return path, nil
		}
	}
	return "", fmt.Errorf("Skiff has no %s of its own, and there is none in PATH", name)
}
