package server

import (
	"context"
	"errors"
	"net/http"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/kubelet/local"
)

// Volumes are the node's directories that the control plane has made and wiped; local.Volumes does it.
type Volumes interface {
	Make(ctx context.Context, name string) (path string, err error)
	Wipe(ctx context.Context, name string) error
}

// wiping is how long one request wipes. The next one goes on where it was.
const wiping = 20 * time.Second

// makeVolume answers where the volume is.
func (s *Server) makeVolume(w http.ResponseWriter, r *http.Request) {
	path, err := s.cfg.Volumes.Make(r.Context(), r.PathValue("name"))
	if err != nil {
		failVolume(w, err)
		return
	}
	writeJSON(w, map[string]string{"path": path})
}

func (s *Server) wipeVolume(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), wiping)
	defer cancel()
	if err := s.cfg.Volumes.Wipe(ctx, r.PathValue("name")); err != nil {
		failVolume(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func failVolume(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, local.ErrName):
		code = http.StatusBadRequest
	case errors.Is(err, local.ErrUsed):
		code = http.StatusConflict
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		code = http.StatusInsufficientStorage
	case errors.Is(err, context.DeadlineExceeded):
		code = http.StatusAccepted
	}
	fail(w, code, err.Error())
}
