package connect

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// log serves pods/log: the kubelet's answer, as it comes.
func (h *Handler) log(w http.ResponseWriter, r *http.Request, t Target) error {
	asked := r.URL.Query()
	query, err := logQuery(t.Name, asked)
	if err != nil {
		return err
	}
	pod, err := h.pod(r.Context(), t, t.Name)
	if err != nil {
		return err
	}
	name, err := container(pod, asked.Get("container"))
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	at, err := h.session(r.Context(), pod, fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, name), query)
	if err != nil {
		return err
	}
	body, err := h.openLog(r, at, t.Name)
	if err != nil {
		return err
	}
	defer body.Close()
	if isWebSocket(r) {
		return sendLog(w, r, body)
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	copyFlushing(w, body)
	return nil
}

func (h *Handler) openLog(r *http.Request, at *url.URL, name string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	resp, err := h.kubelet.RoundTrip(req)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("Get %q: %w", at, err))
	}
	if resp.StatusCode >= 200 && resp.StatusCode <= 206 {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	const most = 50000
	text, _ := io.ReadAll(io.LimitReader(resp.Body, most))
	switch resp.StatusCode {
	case http.StatusInternalServerError:
		return nil, apierrors.NewInternalError(errors.New(string(text)))
	case http.StatusBadRequest:
		return nil, apierrors.NewBadRequest(string(text))
	}
	return nil, apierrors.NewGenericServerResponse(resp.StatusCode, "", schema.GroupResource{Resource: "pods/log"}, name, string(text), 0, false)
}

// copyFlushing copies until either side ends, so that a reader sees each line
// when it is written.
func copyFlushing(w http.ResponseWriter, body io.Reader) {
	flush := http.NewResponseController(w)
	_ = flush.Flush()
	buffer := make([]byte, 32<<10)
	for {
		n, err := body.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return
			}
			_ = flush.Flush()
		}
		if err != nil {
			return
		}
	}
}

// logQuery checks the options of a log request and gives those the kubelet is
// to know.
func logQuery(pod string, asked url.Values) (url.Values, error) {
	query := make(url.Values)
	var errs field.ErrorList
	var unreadable error
	number := func(name string, least int64, message string) bool {
		text := asked.Get(name)
		if text == "" {
			return false
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			unreadable = apierrors.NewBadRequest(err.Error())
			return false
		}
		if n < least {
			errs = append(errs, field.Invalid(field.NewPath(name), n, message))
		}
		query.Set(name, text)
		return true
	}
	number("tailLines", 0, validation.IsNegativeErrorMsg)
	number("limitBytes", 1, "must be greater than 0")
	since := number("sinceSeconds", 1, "must be greater than 0")
	if text := asked.Get("sinceTime"); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		query.Set("sinceTime", at.Format(time.RFC3339))
		if since {
			errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
		}
	}
	if asked.Has("stream") {
		errs = append(errs, field.Forbidden(field.NewPath("stream"), "may not be specified"))
	}
	if unreadable != nil {
		return nil, unreadable
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("PodLogOptions").GroupKind(), pod, errs)
	}
	for _, name := range []string{"follow", "previous", "timestamps"} {
		if isTrue(asked, name) {
			query.Set(name, "true")
		}
	}
	return query, nil
}

// isTrue reads a boolean option as the API does: anything but false and 0.
func isTrue(query url.Values, name string) bool {
	if !query.Has(name) {
		return false
	}
	switch query.Get(name) {
	case "false", "0", "False", "FALSE":
		return false
	}
	return true
}
