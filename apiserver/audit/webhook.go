package audit

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// webhook posts lists of events to a server.
type webhook struct {
	client *http.Client
	url    string
	first  time.Duration
}

// newWebhook takes the server and its credentials from a kubeconfig.
func newWebhook(c Webhook) (*webhook, error) {
	loaded, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(&clientcmd.ClientConfigLoadingRules{ExplicitPath: c.ConfigFile}, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("audit webhook %s: %w", c.ConfigFile, err)
	}
	loaded.Timeout = requestTime
	client, err := rest.HTTPClientFor(loaded)
	if err != nil {
		return nil, fmt.Errorf("audit webhook %s: %w", c.ConfigFile, err)
	}
	server, _, err := rest.DefaultServerUrlFor(loaded)
	if err != nil {
		return nil, fmt.Errorf("audit webhook %s: %w", c.ConfigFile, err)
	}
	server.RawQuery = "timeout=" + requestTime.String()
	return &webhook{client: client, url: server.String(), first: c.InitialBackoff}, nil
}

const (
	// requestTime is how long the server may take to answer.
	requestTime = 30 * time.Second
	// attempts are made to send a batch, with longer and longer pauses.
	attempts = 5
)

// send tries again until the server has the events, or there were enough attempts. When ctx ends it does not wait for another one.
func (w *webhook) send(ctx context.Context, events []*item) error {
	body, err := eventList(events)
	if err != nil {
		return err
	}
	var last error
	backoff := wait.Backoff{Duration: w.first, Factor: 1.5, Jitter: 0.2, Steps: attempts}
	err = wait.ExponentialBackoffWithContext(ctx, backoff, func(context.Context) (bool, error) {
		last = w.post(body)
		return last == nil, nil
	})
	if last != nil {
		return last
	}
	if err != nil { // ctx ended before the first attempt
		return w.post(body)
	}
	return nil
}

// eventList is the JSON of an EventList.
func eventList(events []*item) ([]byte, error) {
	var list bytes.Buffer
	list.WriteString(`{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[`)
	for n, i := range events {
		data, err := i.json()
		if err != nil {
			return nil, err
		}
		if n > 0 {
			list.WriteByte(',')
		}
		list.Write(data)
	}
	list.WriteString("]}\n")
	return list.Bytes(), nil
}

func (w *webhook) post(body []byte) error {
	request, err := http.NewRequest(http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json, */*")
	answer, err := w.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(io.LimitReader(answer.Body, 1024))
	if answer.StatusCode >= http.StatusOK && answer.StatusCode < http.StatusMultipleChoices {
		return nil // what else it says does not matter
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("the webhook answered %s: %s", answer.Status, strings.TrimSpace(string(said)))
}

// mostBatches is how many batches are on their way to a server that is slow. Those that follow wait, and then events are dropped.
const mostBatches = 32

func (w *webhook) parallel() int { return mostBatches }

func (w *webhook) close() error {
	w.client.CloseIdleConnections()
	return nil
}
