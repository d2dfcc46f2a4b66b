package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/logs"
	"github.com/skiff-k8s/skiff/kubelet/untrusted"
)

// Limits of a termination message, from the documentation of terminationMessagePath and
// terminationMessagePolicy.
const (
	maxMessageFile     = 4096 // bytes, of the file
	maxMessageLog      = 2048 // bytes, of the log's end
	maxMessageLogLines = 80
)

// exitMessage is the termination message of an exited container: what the runtime says, then what the
// container wrote to its message file, or the end of its log if the policy allows and it failed. The path
// of what is below rootDir is trusted up to there.
func exitMessage(ctx context.Context, s *cri.ContainerStatus, rootDir string) string {
	path := s.Annotations[annotationMessagePath]
	fallback := s.ExitCode != 0 && s.Reason != "ContainerCannotRun" &&
		s.Annotations[annotationMessagePolicy] == string(v1.TerminationMessageFallbackToLogsOnError)

	written := messageFile(ctx, s.Mounts, path, rootDir)
	if written == "" && fallback {
		written = logTail(ctx, s.LogPath)
	}
	if s.Message != "" && written != "" {
		return s.Message + ": " + written
	}
	return s.Message + written
}

// messageFile reads the end of the host file that is mounted at path. It need not be the one that the
// kubelet made: the pod may have mounted what it likes there.
func messageFile(ctx context.Context, mounts []*cri.Mount, path, rootDir string) string {
	if path == "" {
		return ""
	}
	for _, m := range mounts {
		if m.ContainerPath != filepath.Join("/", path) {
			continue
		}
		data, err := untrusted.Tail(ctx, m.HostPath, maxMessageFile, func() (*os.File, error) {
			return untrusted.Open(rootDir, m.HostPath)
		})
		if errors.Is(err, fs.ErrNotExist) {
			return ""
		}
		if err != nil {
			return fmt.Sprintf("Error on reading termination log %s: %v", m.HostPath, err)
		}
		return string(data)
	}
	return ""
}

// logTail is the text of a CRI log's last lines, within the limits of a termination message.
func logTail(ctx context.Context, path string) string {
	// A log line has about 40 bytes before its text; reading generously saves a second pass.
	data, err := logs.Tail(ctx, path, maxMessageLog+maxMessageLogLines*64)
	if err != nil {
		return fmt.Sprintf("Error on reading termination message from logs: %v", err)
	}
	return tailText(data)
}

// tailText takes the end of a file in the CRI log format ("time stream tag text") and returns the text
// of its last whole lines, at most 80 lines and 2048 bytes.
func tailText(data []byte) string {
	var texts [][]byte
	lines := bytes.SplitAfter(data, []byte("\n"))
	for _, line := range lines[max(0, len(lines)-maxMessageLogLines-1):] {
		fields := bytes.SplitN(line, []byte(" "), 4)
		if len(fields) < 4 {
			continue // the cut first line, or the empty end
		}
		text := fields[3]
		if bytes.HasPrefix(fields[2], []byte("P")) {
			text = bytes.TrimSuffix(text, []byte("\n"))
		}
		texts = append(texts, text)
	}
	text := bytes.Join(texts, nil)
	return string(text[max(0, len(text)-maxMessageLog):])
}
