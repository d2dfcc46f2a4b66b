package openapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"weak"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"github.com/munnerz/goautoneg"
	"google.golang.org/protobuf/proto"
)

// mediaType is a way to write a document.
type mediaType struct {
	name, contentType string
	protobuf          bool
}

// The media types of each document, the default first. Protobuf answers name
// their type without the at sign, with which it would be no media type.
var (
	typeJSON = mediaType{name: "application/json", contentType: "application/json"}
	typesV2  = []mediaType{typeJSON,
		{"application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", true},
		{"application/com.github.proto-openapi.spec.v2.v1.0+protobuf", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", true},
	}
	typesV3 = []mediaType{typeJSON,
		{"application/com.github.proto-openapi.spec.v3@v1.0+protobuf", "application/com.github.proto-openapi.spec.v3.v1.0+protobuf", true},
		{"application/com.github.proto-openapi.spec.v3.v1.0+protobuf", "application/com.github.proto-openapi.spec.v3.v1.0+protobuf", true},
	}
	// The index answers whatever is accepted.
	typesIndex []mediaType
)

// document is made at most once, by build, and kept compressed.
type document struct {
	tag        string // names what it says before it is made; empty: a hash of it does
	build      func() ([]byte, error)
	foreign    bool // it is made of what another server says, which may make no sense
	toProtobuf func(json []byte) ([]byte, error)

	mu       sync.Mutex
	made     time.Time
	etag     string
	json     []byte
	protobuf []byte
	// plain is what is not compressed, per form, while somebody reads it: clients
	// that read slowly share it.
	plain map[bool]weak.Pointer[[]byte]
}

// form makes the document if nobody did yet and returns it compressed.
func (d *document) form(protobuf bool) (data []byte, etag string, made time.Time, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.json == nil {
		plain, err := d.build()
		if err != nil {
			return nil, "", time.Time{}, fmt.Errorf("make OpenAPI document: %w", err)
		}
		d.json, d.made = compress(plain), time.Now()
		if d.etag = d.tag; d.etag == "" {
			d.etag = hash(plain)
		}
	}
	if !protobuf {
		return d.json, d.etag, d.made, nil
	}
	if d.protobuf == nil {
		plain, err := expand(d.json)
		if err != nil {
			return nil, "", time.Time{}, err
		}
		if plain, err = d.toProtobuf(plain); err != nil {
			return nil, "", time.Time{}, fmt.Errorf("write OpenAPI document in protobuf: %w", err)
		}
		d.protobuf = compress(plain)
	}
	return d.protobuf, d.etag, d.made, nil
}

func hash(data []byte) string { return fmt.Sprintf("%X", sha512.Sum512(data)) }

// name is the ETag. The document is made only if nothing else tells.
func (d *document) name() (string, error) {
	if d.tag != "" {
		return d.tag, nil
	}
	_, etag, _, err := d.form(false)
	return etag, err
}

// expanded is data, which form has returned, not compressed. It is shared with
// others as long as the pointer is kept.
func (d *document) expanded(data []byte, protobuf bool) (*[]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if shared := d.plain[protobuf].Value(); shared != nil {
		return shared, nil
	}
	plain, err := expand(data)
	if err != nil {
		return nil, err
	}
	if d.plain == nil {
		d.plain = make(map[bool]weak.Pointer[[]byte])
	}
	d.plain[protobuf] = weak.Make(&plain)
	return &plain, nil
}

// writers of gzip are large: the index makes forty documents in a row.
var writers = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

func compress(plain []byte) []byte {
	var b bytes.Buffer
	w := writers.Get().(*gzip.Writer)
	defer writers.Put(w)
	w.Reset(&b)
	w.Write(plain) // a Buffer never fails
	w.Close()
	return bytes.Clone(b.Bytes())
}

func expand(data []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func protobufV2(json []byte) ([]byte, error) {
	d, err := openapiv2.ParseDocument(json)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(d)
}

func protobufV3(json []byte) ([]byte, error) {
	d, err := openapiv3.ParseDocument(json)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(d)
}

// serve writes the document in one of types, the index if there are none. A
// request that names the hash of the document may keep the answer for good;
// one that names another hash is sent to the right one.
func (d *document) serve(w http.ResponseWriter, r *http.Request, types []mediaType) {
	as, ok := negotiate(r.Header.Get("Accept"), types)
	if len(types) > 0 {
		w.Header().Add("Vary", "Accept")
	}
	w.Header().Add("Vary", "Accept-Encoding")
	if !ok {
		w.WriteHeader(http.StatusNotAcceptable)
		return
	}
	data, etag, made, err := d.form(as.protobuf)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", as.contentType)
	w.Header().Set("ETag", strconv.Quote(etag))
	if hash := r.URL.Query().Get("hash"); hash != "" && len(types) > 0 {
		if hash != etag {
			http.Redirect(w, r, r.URL.Path+"?"+url.Values{"hash": {etag}}.Encode(), http.StatusMovedPermanently)
			return
		}
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().UTC().AddDate(1, 0, 0).Format(time.RFC1123))
	}
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") && r.Header.Get("Range") == "" {
		w.Header().Set("Content-Encoding", "gzip")
		http.ServeContent(w, r, "", made, bytes.NewReader(data))
		return
	}
	plain, err := d.expanded(data, as.protobuf)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	http.ServeContent(w, r, "", made, bytes.NewReader(*plain))
	runtime.KeepAlive(plain)
}

// negotiate finds the type that is accepted most; no types means JSON always.
func negotiate(accept string, types []mediaType) (mediaType, bool) {
	if accept == "" || len(types) == 0 {
		return typeJSON, true
	}
	for _, clause := range goautoneg.ParseAccept(accept) {
		for _, t := range types {
			main, sub, _ := strings.Cut(t.name, "/")
			if (clause.Type == main || clause.Type == "*") && (clause.SubType == sub || clause.SubType == "*") {
				return t, true
			}
		}
	}
	return mediaType{}, false
}

// renderIndex names where each document is, hash included: that makes those of
// built-in kinds.
func renderIndex(all map[string]*document, others map[string]*Extension) ([]byte, error) {
	type place struct {
		ServerRelativeURL string `json:"serverRelativeURL"`
	}
	var index struct {
		Paths map[string]place `json:"paths"`
	}
	index.Paths = make(map[string]place)
	for path, d := range all {
		etag, err := d.name()
		if err != nil && d.foreign {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		index.Paths[path] = place{PathV3 + "/" + path + "?" + url.Values{"hash": {etag}}.Encode()}
	}
	for path, e := range others {
		index.Paths[path] = place{e.Index[path]}
	}
	return json.Marshal(index)
}
