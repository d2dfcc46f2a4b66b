package server

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// containerLogs serves /containerLogs/{namespace}/{pod}/{container}.
func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) {
	name, container := r.PathValue("pod"), r.PathValue("container")
	options, err := parseLogOptions(r.URL.Query(), time.Now())
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	pod := s.pod(r)
	if pod == nil {
		fail(w, http.StatusNotFound, fmt.Sprintf("pod %q does not exist", name))
		return
	}
	if !hasContainer(pod, container) {
		fail(w, http.StatusNotFound, fmt.Sprintf("container %q not found in pod %q", container, name))
		return
	}
	id, err := logContainer(pod, container, isSet(r.URL.Query().Get("previous")))
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	path, _, err := s.cfg.Host.Log(r.Context(), trimRuntime(id))
	if err != nil || path == "" {
		fmt.Fprintf(w, "unable to retrieve container logs for %v", id)
		return
	}

	flush := http.NewResponseController(w).Flush
	flushed := func() { _ = flush() } // an error shows again with the next write
	if options.follow {
		w.Header().Set("Content-Type", "text/plain")
		flushed() // who follows is told at once that there is something to follow
	}
	running := func(ctx context.Context) (bool, error) {
		_, running, err := s.cfg.Host.Log(ctx, trimRuntime(id))
		return running, err
	}
	sent := &counter{ResponseWriter: w}
	if err := copyLog(r.Context(), path, options, sent, flushed, running); err != nil && sent.n == 0 && !options.follow {
		fail(w, http.StatusInternalServerError, err.Error())
	}
}

// counter knows whether something was written already, and with it the status.
type counter struct {
	http.ResponseWriter
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

// parseLogOptions reads the query of a log request, whose names are those of PodLogOptions.
func parseLogOptions(q url.Values, now time.Time) (logOptions, error) {
	o := logOptions{tail: -1, limit: -1, timestamps: isSet(q.Get("timestamps")), follow: isSet(q.Get("follow"))}
	var seconds int64
	for name, field := range map[string]*int64{"tailLines": &o.tail, "limitBytes": &o.limit, "sinceSeconds": &seconds} {
		text := q.Get(name)
		if text == "" || text == "all" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return o, fmt.Errorf(`{"message": "Unable to decode query."}`)
		}
		*field = n
	}
	if seconds > 0 {
		o.since = now.Add(-time.Duration(seconds) * time.Second)
	}
	if text := q.Get("sinceTime"); text != "" {
		since, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return o, fmt.Errorf(`{"message": "Unable to decode query."}`)
		}
		o.since = since
	}
	switch stream := cmp.Or(q.Get("stream"), v1.LogStreamAll); stream {
	case v1.LogStreamAll:
	case v1.LogStreamStdout, v1.LogStreamStderr:
		o.stream = strings.ToLower(stream)
	default:
		return o, fmt.Errorf("invalid stream type %q", stream)
	}
	return o, nil
}

// isSet reads a flag of a query as the API does: anything but no is yes.
func isSet(text string) bool {
	return text != "" && text != "0" && !strings.EqualFold(text, "false")
}

// logContainer is the API's id of the container whose log is meant: the running one, else the one that
// ran last.
func logContainer(pod *v1.Pod, name string, previous bool) (string, error) {
	status := statusOf(pod, name)
	if status == nil {
		return "", fmt.Errorf("container %q in pod %q is not available", name, pod.Name)
	}
	last := ""
	if t := status.LastTerminationState.Terminated; t != nil {
		last = t.ContainerID
	}
	switch state := status.State; {
	case previous:
		if last == "" {
			return "", fmt.Errorf("previous terminated container %q in pod %q not found", name, pod.Name)
		}
		return last, nil
	case state.Running != nil:
		return status.ContainerID, nil
	case state.Terminated != nil || last != "":
		id := last
		if t := state.Terminated; t != nil {
			id = cmp.Or(t.ContainerID, last)
		}
		if id == "" {
			return "", fmt.Errorf("container %q in pod %q is terminated", name, pod.Name)
		}
		return id, nil
	case state.Waiting != nil:
		why := state.Waiting.Reason
		switch why {
		case "ErrImagePull":
			why = "image can't be pulled"
		case "ImagePullBackOff":
			why = "trying and failing to pull image"
		}
		return "", fmt.Errorf("container %q in pod %q is waiting to start: %v", name, pod.Name, why)
	}
	return "", fmt.Errorf("container %q in pod %q is waiting to start - no logs yet", name, pod.Name)
}

func statusOf(pod *v1.Pod, name string) *v1.ContainerStatus {
	s := &pod.Status
	for _, list := range [][]v1.ContainerStatus{s.ContainerStatuses, s.InitContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

func hasContainer(pod *v1.Pod, name string) bool {
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return true
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return true
		}
	}
	return false
}

// trimRuntime takes "containerd://<id>" to the id.
func trimRuntime(id string) string {
	if _, rest, found := strings.Cut(id, "://"); found {
		return rest
	}
	return id
}
