// Command gojson says what Go's JSON decoder, and so Ollama, reads from a request body: one body a line, in
// hexadecimal; one answer a line, in JSON.
package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// The members that decide where a request goes and how it is answered, with the types that Ollama's api.ChatRequest
// and openai.ChatCompletionRequest give them.
type request struct {
	Model               string          `json:"model"`
	Stream              *bool           `json:"stream"`
	MaxTokens           json.RawMessage `json:"max_tokens"`
	MaxCompletionTokens json.RawMessage `json:"max_completion_tokens"`
	KeepAlive           json.RawMessage `json:"keep_alive"`
	Options             json.RawMessage `json:"options"`
}

type answer struct {
	Decoded bool   `json:"decoded"`
	Valid   bool   `json:"valid"`
	Model   string `json:"model"`
	Stream  *bool  `json:"stream"`
	// As they are written.
	MaxTokens           string            `json:"max_tokens"`
	MaxCompletionTokens string            `json:"max_completion_tokens"`
	KeepAlive           string            `json:"keep_alive"`
	Options             map[string]string `json:"options"`
}

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if err == io.EOF {
			return
		}
		if err == nil {
			err = respond(bytes.TrimSpace(line))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "gojson:", err)
			os.Exit(1)
		}
	}
}

func respond(line []byte) error {
	body := make([]byte, hex.DecodedLen(len(line)))
	if _, err := hex.Decode(body, line); err != nil {
		return err
	}
	var read request
	// As gin's ShouldBindJSON does it: one value is decoded, what follows it is left.
	err := json.NewDecoder(bytes.NewReader(body)).Decode(&read)
	// What Ollama decodes as a map[string]any: keys keep their case. Whether it is one at all is not asked here.
	var options map[string]json.RawMessage
	_ = json.Unmarshal(read.Options, &options)
	written := make(map[string]string, len(options))
	for key, value := range options {
		written[key] = string(value)
	}
	return json.NewEncoder(os.Stdout).Encode(answer{
		Decoded:             err == nil,
		Valid:               json.Valid(body),
		Model:               read.Model,
		Stream:              read.Stream,
		MaxTokens:           string(read.MaxTokens),
		MaxCompletionTokens: string(read.MaxCompletionTokens),
		KeepAlive:           string(read.KeepAlive),
		Options:             written,
	})
}
