package traffic

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"github.com/skiff-k8s/skiff/robustness/history"
)

// errNotSent: the request has not reached a server.
var errNotSent = errors.New("not sent")

// answer is what a server said.
type answer struct {
	code int
	body []byte
}

// wireObject is what is used of a ConfigMap, a Status or a list of ConfigMaps.
type wireObject struct {
	Kind     string            `json:"kind,omitempty"`
	Version  string            `json:"apiVersion,omitempty"`
	Metadata wireMeta          `json:"metadata"`
	Data     map[string]string `json:"data,omitempty"`
	Reason   string            `json:"reason,omitempty"`
	Message  string            `json:"message,omitempty"`
	Code     int               `json:"code,omitempty"`
	Details  struct {
		UID string `json:"uid"`
	} `json:"details,omitzero"`
	Items []wireObject `json:"items,omitempty"`
}

type wireMeta struct {
	Name            string            `json:"name,omitempty"`
	UID             string            `json:"uid,omitempty"`
	ResourceVersion string            `json:"resourceVersion,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	Annotations     map[string]string `json:"annotations,omitempty"`
	Continue        string            `json:"continue,omitempty"`
}

// request asks and reads the whole answer.
func (a *api) request(ctx context.Context, method, name string, query url.Values, mediaType string, body any) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, a.patience)
	defer cancel()
	response, err := a.send(ctx, method, name, query, mediaType, body)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	return &answer{response.StatusCode, data}, nil
}

// send asks; the body of the answer is to be read and closed.
func (a *api) send(ctx context.Context, method, name string, query url.Values, mediaType string, body any) (*http.Response, error) {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	address := a.base + "/api/v1/namespaces/" + a.namespace + "/configmaps"
	if name != "" {
		address += "/" + name
	}
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	r.GetBody = nil // a request is sent once: the transport must not try again
	if body != nil {
		r.Header.Set("Content-Type", mediaType)
	}
	response, err := a.client.Do(r)
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	return response, err
}

// object is what a server shows of an object. Its label must be what its data
// says it is: both are written together.
func (w wireObject) object() (history.Object, error) {
	revision, err := strconv.ParseInt(w.Metadata.ResourceVersion, 10, 64)
	if err != nil {
		return history.Object{}, fmt.Errorf("%s has resourceVersion %q", w.Metadata.Name, w.Metadata.ResourceVersion)
	}
	if label := w.Metadata.Labels[colorKey]; label != w.Data[colorKey] {
		return history.Object{}, fmt.Errorf("%s at %d has label %q and data %q: it was written in part", w.Metadata.Name, revision, label, w.Data[colorKey])
	}
	return history.Object{Revision: revision, UID: w.Metadata.UID, Content: history.NewContent(w.Data)}, nil
}

func decode(data []byte) (w wireObject, err error) {
	if err = json.Unmarshal(data, &w); err != nil {
		err = fmt.Errorf("answer %q: %w", data[:min(len(data), 100)], err)
	}
	return w, err
}

// outcome is what an answer says became of a request. An error is what a server
// never should say.
func (a *answer) outcome() (history.Outcome, wireObject, error) {
	w, err := decode(a.body)
	if err != nil {
		return history.Unknown, w, err
	}
	switch {
	case a.code == http.StatusOK || a.code == http.StatusCreated:
		return history.Done, w, nil
	case a.code == http.StatusNotFound && w.Reason == "NotFound":
		return history.NotFound, w, nil
	case a.code == http.StatusConflict && w.Reason == "AlreadyExists":
		return history.Exists, w, nil
	case a.code == http.StatusConflict && w.Reason == "Conflict":
		return history.Conflict, w, nil
	case a.code == http.StatusGone && w.Reason == "Expired":
		return history.Expired, w, nil
	case a.code >= 500:
		return history.Unknown, w, nil
	}
	return history.Unknown, w, fmt.Errorf("answer %d %s: %s", a.code, w.Reason, w.Message)
}
