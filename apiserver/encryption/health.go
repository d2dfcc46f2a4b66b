package encryption

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/uuid"
	kmsapi "k8s.io/kms/apis/v2"
)

// health is the last answer of a plugin about itself.
type health struct {
	mu      sync.Mutex // held while it is asked
	err     error
	until   time.Time // when it is asked again
	version string    // the first it said
	was     bool      // well, the last time
}

// follow asks the plugin again and again, until ctx ends, so that its key is
// the one that writes.
func (p *plugin) follow(ctx context.Context) error {
	for {
		after := p.times.Poll
		if err := p.check(ctx); err != nil && ctx.Err() == nil {
			p.log.ErrorContext(ctx, "KMS plugin is not well", "name", p.name, "error", err)
			after = p.times.Retry
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(after):
		}
	}
}

// check asks the plugin how it is, or says what it answered a short time ago.
func (p *plugin) check(ctx context.Context) error {
	h := &p.health
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Now().Before(h.until) {
		return h.err
	}
	h.err = p.probe(ctx)
	if h.err != nil {
		h.until, h.was = time.Now().Add(p.times.Ill), false
		return h.err
	}
	h.until = time.Now().Add(p.times.Well)
	if !h.was {
		p.mu.Lock()
		p.silent = refusal{}
		clear(p.refused)
		p.mu.Unlock()
		p.changed.give()
	}
	h.was = true
	return nil
}

// probe asks the plugin how it is, and for a new seed if its key has changed.
func (p *plugin) probe(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	answer, err := p.client.Status(call, &kmsapi.StatusRequest{})
	if err != nil {
		return err
	}
	var problems []error
	if answer.Healthz != "ok" {
		problems = append(problems, fmt.Errorf("got unexpected healthz status: %.1024s", answer.Healthz))
	}
	if err := p.health.speaks(answer.Version); err != nil {
		problems = append(problems, err)
	}
	if err := validateKeyID(answer.KeyId); err != nil {
		p.metrics.misnamed(p.name, answer.KeyId)
		problems = append(problems, fmt.Errorf("got invalid KMSv2 KeyID hash %q: %w", hashed(answer.KeyId), err))
	} else {
		p.metrics.told(p.name, answer.KeyId)
		if err := p.rotate(ctx, answer.KeyId); err != nil {
			problems = append(problems, err)
		}
	}
	if err := joined(problems); err != nil {
		return fmt.Errorf("kmsv2 Provider %s is not healthy, error: %w", p.name, err)
	}
	return nil
}

// speaks checks the version of the protocol, which stays.
func (h *health) speaks(version string) error {
	if version != "v2" && version != "v2beta1" {
		return fmt.Errorf("expected KMSv2 API version v2, got %.1024s", version)
	}
	if h.version == "" {
		h.version = version
	}
	if h.version != version {
		return fmt.Errorf("KMSv2 API version should not change after the initial status response version %s, got %s", h.version, version)
	}
	return nil
}

// rotate makes sure that a seed writes that the key of an id encrypts. Where it
// cannot, the seed there is goes on until it is trusted no more.
func (p *plugin) rotate(ctx context.Context, keyID string) error {
	until := time.Now().Add(p.times.Trust) // before anybody is asked
	p.mu.Lock()
	old := p.writing
	if old != nil && old.source.keyID == keyID {
		p.writing = &writing{old.source, old.with, until}
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	id := string(uuid.NewUUID())
	made, err := p.newWriting(ctx, id, until)
	if err == nil && made.source.keyID != keyID {
		err = errors.New("the key of the answer is not the key of the status")
	}
	if err != nil {
		return p.notRotated(id, keyID, made, old, err)
	}
	p.mu.Lock()
	p.writing = made
	p.mu.Unlock()
	p.remember(made.source.sum(), made.with)
	return nil
}

func (p *plugin) notRotated(id, keyID string, made, old *writing, err error) error {
	var encryptID, stateID, expires string
	if made != nil {
		encryptID = made.source.keyID
	}
	if old != nil {
		stateID, expires = old.source.keyID, old.until.Format(time.RFC3339)
	}
	return fmt.Errorf("failed to rotate DEK uid=%q, errGen=%w, statusKeyIDHash=%q, encryptKeyIDHash=%q, stateKeyIDHash=%q, expirationTimestamp=%s",
		id, err, hashed(keyID), hashed(encryptID), hashed(stateID), expires)
}
