// Package version says which Kubernetes this is.
package version

import (
	"runtime"
	"runtime/debug"

	"k8s.io/apimachinery/pkg/version"
)

const (
	// Kubernetes is the release whose behaviour is implemented.
	Kubernetes = "v1.36.3"

	major, minor, oldestMinor = "1", "36", "35"
)

// Info is the document of /version. The build metadata tells that this is not
// the original; clients compare versions without it.
func Info() version.Info {
	info := version.Info{
		Major: major, Minor: minor,
		EmulationMajor: major, EmulationMinor: minor,
		MinCompatibilityMajor: major, MinCompatibilityMinor: oldestMinor,
		GitVersion:   Kubernetes + "+skiff",
		GitTreeState: "clean",
		BuildDate:    "1970-01-01T00:00:00Z",
		GoVersion:    runtime.Version(),
		Compiler:     runtime.Compiler,
		Platform:     runtime.GOOS + "/" + runtime.GOARCH,
	}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return info
	}
	for _, s := range build.Settings {
		switch {
		case s.Key == "vcs.revision":
			info.GitCommit = s.Value
		case s.Key == "vcs.time":
			info.BuildDate = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			info.GitTreeState = "dirty"
		}
	}
	return info
}
