package server

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Exec, attach and port-forward prepare the stream with the runtime and then pass the client's connection
// on to the runtime's streaming server, which speaks SPDY/3.1 and WebSocket (channel.k8s.io up to v4).

// exec serves /exec/{namespace}/{pod}/[{uid}/]{container}.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	s.stream(w, r, func(ctx context.Context, container string, streams streams) (string, error) {
		return s.cfg.Runtime.ExecURL(ctx, &cri.ExecRequest{
			ContainerId: container, Cmd: r.URL.Query()["command"],
			Stdin: streams.in, Stdout: streams.out, Stderr: streams.err, Tty: streams.tty,
		})
	})
}

// attach serves /attach/{namespace}/{pod}/[{uid}/]{container}.
func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	s.stream(w, r, func(ctx context.Context, container string, streams streams) (string, error) {
		return s.cfg.Runtime.AttachURL(ctx, &cri.AttachRequest{
			ContainerId: container,
			Stdin:       streams.in, Stdout: streams.out, Stderr: streams.err, Tty: streams.tty,
		})
	})
}

// streams are the ends of a terminal or of pipes that the client wants.
type streams struct{ in, out, err, tty bool }

func parseStreams(q url.Values) (streams, error) {
	s := streams{in: q.Get("input") == "1", out: q.Get("output") == "1", err: q.Get("error") == "1", tty: q.Get("tty") == "1"}
	if s.tty {
		s.err = false // a terminal has one output
	}
	if !s.in && !s.out && !s.err {
		return s, fmt.Errorf("you must specify at least 1 of stdin, stdout, stderr")
	}
	return s, nil
}

func (s *Server) stream(w http.ResponseWriter, r *http.Request, prepare func(context.Context, string, streams) (string, error)) {
	streams, err := parseStreams(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	pod := s.pod(r)
	if pod == nil {
		fail(w, http.StatusNotFound, "pod does not exist")
		return
	}
	id, err := s.runningContainer(r, pod)
	if err != nil {
		failRuntime(w, err)
		return
	}
	target, err := prepare(r.Context(), id, streams)
	if err != nil {
		failRuntime(w, err)
		return
	}
	passOn(w, r, target)
}

// portForward serves /portForward/{namespace}/{pod}[/{uid}]. Over SPDY the streams name their ports, over
// WebSocket the query does.
func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	pod := s.pod(r)
	if pod == nil {
		fail(w, http.StatusNotFound, "pod does not exist")
		return
	}
	request := &cri.PortForwardRequest{}
	for _, list := range r.URL.Query()["port"] {
		for text := range strings.SplitSeq(list, ",") {
			port, err := strconv.ParseUint(text, 10, 16)
			if err != nil || port == 0 {
				fail(w, http.StatusBadRequest, fmt.Sprintf("invalid port %q", text))
				return
			}
			request.Port = append(request.Port, int32(port))
		}
	}
	sandbox, err := s.cfg.Host.Sandbox(r.Context(), pod.UID)
	if err == nil && sandbox == "" {
		err = fmt.Errorf("failed to find sandboxID for pod %s", pod.Name+"_"+pod.Namespace)
	}
	if err != nil {
		failRuntime(w, err)
		return
	}
	request.PodSandboxId = sandbox
	target, err := s.cfg.Runtime.PortForwardURL(r.Context(), request)
	if err != nil {
		failRuntime(w, err)
		return
	}
	passOn(w, r, target)
}

// run serves POST /run/{namespace}/{pod}/[{uid}/]{container}?cmd=…: a command without streams.
func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	pod := s.pod(r)
	if pod == nil {
		fail(w, http.StatusNotFound, "pod does not exist")
		return
	}
	id, err := s.runningContainer(r, pod)
	if err != nil {
		failRuntime(w, err)
		return
	}
	command := strings.Split(r.URL.Query().Get("cmd"), " ")
	output, code, err := s.cfg.Runtime.Exec(r.Context(), id, command, 0)
	if err == nil && code != 0 {
		err = fmt.Errorf("command '%s' exited with %d: %s", strings.Join(command, " "), code, output)
	}
	if err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	_, _ = w.Write(output) // a client that went away needs no answer
}

func (s *Server) runningContainer(r *http.Request, pod *v1.Pod) (string, error) {
	name := r.PathValue("container")
	id, err := s.cfg.Host.Container(r.Context(), pod.UID, name)
	if err != nil {
		return "", err
	}
	if id == "" {
		return "", fmt.Errorf("container not found (%q)", name)
	}
	return id, nil
}

// failRuntime answers with the runtime's error, which says whether what was asked for exists.
func failRuntime(w http.ResponseWriter, err error) {
	switch status.Code(err) {
	case codes.NotFound:
		fail(w, http.StatusNotFound, err.Error())
	case codes.ResourceExhausted:
		w.Header().Set("Retry-After", "60")
		fail(w, http.StatusTooManyRequests, err.Error())
	default:
		fail(w, http.StatusInternalServerError, err.Error())
	}
}
